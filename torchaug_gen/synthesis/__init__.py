"""Synthesizers: models that draw images, trained here or elsewhere."""
