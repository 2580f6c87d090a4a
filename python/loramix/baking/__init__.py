"""Deltas in the weights of a base model."""
