"""From documents to masked records on disk, and from records to batches."""
