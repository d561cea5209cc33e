"""Images on disk, or built in, to batches."""
