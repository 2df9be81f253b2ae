"""Text and a task to begin with, of what every installation carries."""
