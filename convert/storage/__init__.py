"""One safe file for a network."""
