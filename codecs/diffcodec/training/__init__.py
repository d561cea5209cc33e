"""Losses, optimizers and sharding that several trainings share."""
