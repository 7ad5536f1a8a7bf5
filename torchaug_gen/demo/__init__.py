"""The demo: from a few real images to a classifier trained on real, augmented and synthetic ones, and a verdict."""

from torchaug_gen.demo.result import DemoResult
from torchaug_gen.demo.run import run_demo

__all__ = ["DemoResult", "run_demo"]
