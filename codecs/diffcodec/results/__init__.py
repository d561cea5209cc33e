"""What a run measured: curves, figures, where they are from."""
