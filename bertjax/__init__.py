"""bertjax: encoders of text in JAX, from raw text to a fine-tuned and exported model."""

import os

# TensorFlow only reads and writes files here: its start-up chatter helps nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__version__ = "0.1.0"
