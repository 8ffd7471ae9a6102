"""From a user's model to a graph that computes the same."""
