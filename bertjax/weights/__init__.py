"""Weights and vectors in the layouts of others, read and written."""
