"""One safe file for a network, and other formats."""
