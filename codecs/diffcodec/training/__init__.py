"""What trainings share: losses, optimizers, sharding."""
