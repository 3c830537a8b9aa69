"""From a Keras network to a bundle."""
