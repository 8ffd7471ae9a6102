"""A function and the distribution of its inputs in, the table of a neuron out."""
