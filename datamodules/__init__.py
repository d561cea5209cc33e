"""Images on disk, or built in, as batches."""
