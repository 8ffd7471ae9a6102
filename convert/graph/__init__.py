"""A model as a graph of ATen operations: capture, and what each operation is."""
