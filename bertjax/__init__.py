"""bertjax: encoders of text in JAX, from raw text to a fine-tuned and exported model."""

__version__ = "0.1.0"
