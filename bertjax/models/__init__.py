"""Encoders, heads and objectives: pure functions of parameters and arrays."""
