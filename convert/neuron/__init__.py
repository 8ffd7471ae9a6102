"""The few-spikes neuron and its machine code: what one neuron does with one tensor."""
