"""What a file that says its inputs and outputs tells of the network, so that the caller need not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

Shape = tuple[int | None, ...]


class Told(NamedTuple):
    """What a file tells; ``None`` where it leaves it open.

    Args:
        latent_dim: shape of a row of ``z``.
        image_shape: ``(C, H, W)``.
        chunk: rows, where their number is fixed.
        labelled: whether the network takes labels.
        value_range: black and white, where the format fixes them.
        num_classes: number of classes.
    """

    latent_dim: tuple[int, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    chunk: int | None = None
    labelled: bool | None = None
    value_range: tuple[float, float] | None = None
    num_classes: int | None = None


def tell(inputs: Sequence[tuple[str, Shape, bool]], outputs: Sequence[Shape], path: Path) -> Told:
    """Return what the declared inputs and outputs of a network tell.

    Args:
        inputs: name, shape with ``None`` for a free size, and whether it is floating, of each.
        outputs: shapes.
        path: where they are from, for errors.

    Raises:
        ValueError: anything but ``z``, or ``z`` and ``y``, in and images out.
    """
    latents = [shape for _, shape, floating in inputs if floating]
    labels = [shape for _, shape, floating in inputs if not floating]
    if len(latents) != 1 or len(labels) > 1 or len(latents[0]) < 2 or any(len(shape) != 1 for shape in labels):
        raise ValueError(
            f"{path} must take z (N, latent_dim), or also labels (N,) as integers, got "
            + (", ".join(f"{name} {_spelled(shape)}" for name, shape, _ in inputs) or "no inputs")
        )
    if not outputs or len(outputs[0]) != 4:
        raise ValueError(f"{path} must return images (N, C, H, W), got {[_spelled(shape) for shape in outputs]}")
    chunks = {shape[0] for shape in (*latents, *labels, outputs[0]) if shape[0] is not None}
    if len(chunks) > 1:
        raise ValueError(f"{path} must take and return the same number of rows, got {sorted(chunks)}")
    return Told(
        latent_dim=_known(latents[0][1:]),
        image_shape=_known(outputs[0][1:]),
        chunk=next(iter(chunks), None),
        labelled=bool(labels),
    )


def _known(shape: Shape) -> Any:
    return None if None in shape else shape


def _spelled(shape: Shape) -> str:
    return "(" + ", ".join("N" if size is None else str(size) for size in shape) + ")"
