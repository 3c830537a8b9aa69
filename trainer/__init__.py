"""Data, networks, training and evaluation."""
