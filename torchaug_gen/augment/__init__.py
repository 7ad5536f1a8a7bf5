"""Transforms compiled to programs of stages, and MixUp."""
