"""The ways to augment a batch that ``benchmarks.augment`` compares, one module per library."""

from benchmarks.contestants.base import NAMES, RECIPES, Batches, Contestant, Recipe, Unsupported, build

__all__ = ["NAMES", "RECIPES", "Batches", "Contestant", "Recipe", "Unsupported", "build"]
