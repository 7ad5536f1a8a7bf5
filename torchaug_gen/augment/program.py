"""Program: a list of transforms as stages that run one after the other on the real and synthetic rows of a batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.augment.mix import MixUp
from torchaug_gen.augment.opaque import OpaqueStage
from torchaug_gen.batch import Images
from torchaug_gen.pixels import convert


class Key(NamedTuple):
    """What a batch's random numbers are keyed by."""

    seed: int
    epoch: int
    batch: int


class Rows(NamedTuple):
    """Images and the rows of the batch that they belong in, ``(M,)`` int64."""

    images: Images
    rows: Tensor


class Program:
    """Transforms compiled to stages.

    Args:
        transform: ``None``, one transform, or a list of them: Kornia modules, torchvision v2 transforms, callables on
            ``(N, C, H, W)`` images, and :class:`MixUp`.
        dtype: what images will be delivered in.

    Raises:
        TypeError: something that is neither callable nor a list of callables.
    """

    def __init__(self, transform: Any, *, dtype: torch.dtype | None) -> None:
        self.stages = [stage if isinstance(stage, MixUp) else OpaqueStage(stage) for stage in _listed(transform)]
        needs_float = any(isinstance(stage, MixUp) or stage.needs_float for stage in self.stages)
        # Images take the widest dtype on the way, and the one to be delivered in last.
        delivers_float = dtype is not None and dtype.is_floating_point
        self._working = torch.float32 if delivers_float or needs_float else None

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become probabilities ``(N, K)`` in every batch."""
        return any(isinstance(stage, MixUp) for stage in self.stages)

    @property
    def num_classes(self) -> int | None:
        """The number of classes that a mixing stage was told, or ``None``."""
        told = (stage.num_classes for stage in self.stages if isinstance(stage, MixUp))
        return next((number for number in told if number is not None), None)

    def __call__(self, parts: Sequence[Rows], labels: Tensor | None, key: Key) -> tuple[Images, Tensor | None]:
        """Run the stages.

        Rows are joined into one tensor as soon as their sizes agree: at once, or after the stage that makes them agree.

        Args:
            parts: the real rows, then the synthetic ones, where there are any.
            labels: the labels of all rows, ``(N,)`` or ``(N, K)``; ``None`` where the batch has none.
            key: what random numbers are keyed by.

        Returns:
            Images ``(N, C, H, W)``, or a list where a ragged batch stays ragged, and labels.

        Raises:
            ValueError: real and synthetic sizes that still differ at the end, and labels that cannot be mixed.
        """
        dtype = self._dtype(parts[0].images)
        parts = _join([Rows(_convert(part.images, dtype), part.rows) for part in parts])
        for index, stage in enumerate(self.stages):
            if isinstance(stage, MixUp):
                images, labels = self._mix(stage, parts, labels, key)
                parts = [parts[0]._replace(images=images)]
            else:
                seeds = [rng.derive_seed(key.seed, f"transform.{index}.{part}", *key[1:]) for part in range(len(parts))]
                transformed = zip(parts, seeds, strict=True)
                parts = _join([part._replace(images=stage(part.images, seed=seed)) for part, seed in transformed])
        return _only(parts), labels

    def _dtype(self, images: Images) -> torch.dtype:
        """Return the dtype that stages get: at least float32 where anything needs floating values."""
        dtype = images.dtype if isinstance(images, Tensor) else images[0].dtype
        if self._working is None:
            return dtype
        return torch.promote_types(dtype, self._working) if dtype.is_floating_point else self._working

    @staticmethod
    def _mix(stage: MixUp, parts: list[Rows], labels: Tensor | None, key: Key) -> tuple[Tensor, Tensor]:
        images = _only(parts)
        if labels is None:
            raise ValueError(f"{stage!r} blends labels, but the batch has none: name them with fields=")
        if not isinstance(images, Tensor):
            raise ValueError(f"{stage!r} needs images of one size, got sizes {_sizes(images)}: resize before it")
        return stage(images, labels, seed=key.seed, epoch=key.epoch, batch=key.batch)


def _listed(transform: Any) -> list[Any]:
    if transform is None:
        return []
    return list(transform) if isinstance(transform, list | tuple) else [transform]


def _convert(images: Images, dtype: torch.dtype) -> Images:
    return convert(images, dtype) if isinstance(images, Tensor) else [convert(image, dtype) for image in images]


def _stack(images: Images) -> Images:
    """Return a list of images of one size and dtype as a tensor, and others as they are."""
    if isinstance(images, Tensor) or len({(image.shape, image.dtype) for image in images}) != 1:
        return images
    return torch.stack(images)


def _join(parts: list[Rows]) -> list[Rows]:
    """Return the parts as one where all images agree in size and dtype, in the order of their rows."""
    # A batch without any rows keeps its real part.
    parts = [part._replace(images=_stack(part.images)) for part in parts if len(part.rows)] or parts[:1]
    tensors = [part.images for part in parts if isinstance(part.images, Tensor)]
    if len(parts) < 2 or len(tensors) < len(parts) or len({(t.shape[1:], t.dtype) for t in tensors}) != 1:
        return parts
    n = sum(map(len, tensors))
    joined = tensors[0].new_empty(n, *tensors[0].shape[1:])
    for part, images in zip(parts, tensors, strict=True):
        joined[part.rows.to(joined.device)] = images
    return [Rows(joined, torch.arange(n))]


def _only(parts: list[Rows]) -> Images:
    """Return the images of the only part, or raise where real and synthetic ones could not be joined."""
    if len(parts) == 1:
        return parts[0].images
    real, synthetic = (part.images for part in parts)
    raise size_error(real, synthetic)


def size_error(real: Images, synthetic: Images) -> ValueError:
    """Return the error that says which sizes real and synthetic images have, and what to do."""
    return ValueError(
        f"real and synthetic images must have one size, got {_sizes(real)} and {_sizes(synthetic)}: "
        "add a stage that resizes to the transform, or a synthesizer of that size"
    )


def _sizes(images: Images) -> str:
    shapes = {tuple(image.shape) for image in images}
    return " and ".join(map(str, sorted(shapes)[:3])) + (" and others" if len(shapes) > 3 else "")
