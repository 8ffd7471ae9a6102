"""Where the graph has a nonlinear function of one tensor: what gets a neuron."""
