"""Variational autoencoders: networks, losses, prior, training."""
