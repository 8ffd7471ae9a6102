"""From what calibration saw to the network: fit, insert neurons, correct biases."""
