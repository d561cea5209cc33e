"""Results of a run: curves, figures and their provenance."""
