"""TrainingSettings: what can be said about every training of a synthesizer."""

import math
import os
from dataclasses import dataclass

import torch

from torchaug_gen import rng

MIN_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How :func:`torchaug_gen.synthesis.training.loop.train` trains any recipe.

    Args:
        image_size: side in pixels, or ``(H, W)``, that images are resized and cropped to; ``None`` keeps theirs.
        unconditional: learn no classes, whatever labels the data have.
        steps: optimiser steps.
        batch_size: images per step, over all processes together.
        seed: 0 ≤ seed < 2⁶⁴; on the CPU, with as many threads, the same seed gives the same weights.
        device: where to train and where the synthesizer is put; with ``"cuda"`` each of several processes takes the
            GPU of its local rank.
        amp: run each step under bfloat16 autocast on CUDA; ignored elsewhere.
        checkpoint_every: steps between two checkpoints, and between two looks at the diversity of samples.
        grid_every: steps between two grids of samples in the run folder's ``grids``; 0 is none.
        max_rollbacks: how often a training that diverged or collapsed goes back to the last good checkpoint.
        tensorboard: write the losses for TensorBoard too, into the run folder's ``tensorboard``.
        max_data_gib: GiB of memory that the images may take as uint8.

    Raises:
        ValueError: a field out of its range, named.
    """

    image_size: int | tuple[int, int] | None = None
    unconditional: bool = False
    steps: int = 1500
    batch_size: int = 32
    seed: int = 0
    device: str = "cpu"
    amp: bool = True
    checkpoint_every: int = 500
    grid_every: int = 500
    max_rollbacks: int = 3
    tensorboard: bool = False
    max_data_gib: float = 8.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            check_count(name, getattr(self, name))
        for name in ("grid_every", "max_rollbacks"):
            check_count(name, getattr(self, name), least=0)
        if not 0 < self.max_data_gib < math.inf:
            raise ValueError(f"max_data_gib must be above 0 and finite, got {self.max_data_gib}")
        size = self.size
        if size is not None and not (isinstance(size, tuple) and [type(side) for side in size] == [int, int]):
            raise ValueError(f"image_size must be an integer or (height, width), got {self.image_size!r}")
        if size is not None and min(size) < MIN_SIDE:
            raise ValueError(f"image_size must be at least {MIN_SIDE}, got {self.image_size}")
        rng.check_seed(self.seed)

    @property
    def size(self) -> tuple[int, int] | None:
        """``image_size`` as ``(H, W)``."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def local_device(self) -> torch.device:
        """The device of this process: ``device``, with the local rank as index where ``torchrun`` started several.

        Raises:
            ValueError: a device that PyTorch cannot use here.
        """
        try:
            device = torch.device(self.device)
            if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
                device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"device must be one that PyTorch can use here, such as cpu, got {self.device!r}: {reason}"
            ) from error
        return device


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raise ``ValueError`` where a field is no integer of at least ``least``."""
    if type(value) is not int:
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
