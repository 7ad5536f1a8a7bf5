"""Generative adversarial networks: networks, losses, training."""
