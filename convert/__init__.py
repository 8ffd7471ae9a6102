"""Trained networks in, few-spikes networks out."""
