"""Pretraining, from opened inputs to the loop that owns time."""
