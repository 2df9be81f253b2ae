"""A run's folder: what a training keeps, checks and finds again."""
