"""The training loop: data, settings, checkpoints, history."""
