"""From a scan to labelled results."""
