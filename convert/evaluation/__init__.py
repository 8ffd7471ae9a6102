"""The spiking network against its original: accuracy, agreement, steps, spikes."""
