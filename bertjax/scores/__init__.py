"""Scores of predictions, exact to the official scorers."""
