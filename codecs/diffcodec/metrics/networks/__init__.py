"""The networks that metrics are computed with."""
