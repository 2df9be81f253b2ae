"""Downstream tasks: read, encode, score, write."""
