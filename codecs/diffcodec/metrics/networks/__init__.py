"""Networks used by the metrics."""
