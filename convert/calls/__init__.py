"""How a network is called: batches as users have them, its inputs, and its outputs."""
