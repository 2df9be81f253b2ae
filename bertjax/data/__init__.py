"""From documents to masked records on disk, and from records to batches."""

import os

# TensorFlow only reads records here: its start-up chatter helps nobody.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
