"""Checks on what comes from the inner loader, before it is mixed with synthetic items."""

from typing import Any

import torch
from torch import Tensor

from torchaug_gen import batch as batches
from torchaug_gen.augment.rows import size_error
from torchaug_gen.batch import Fields
from torchaug_gen.loading.settings import Settings
from torchaug_gen.pixels import check_range


def check_fields(batch: Any, fields: Fields, settings: Settings) -> None:
    """Raise where the batch has fields that the transform or the synthesizer cannot serve."""
    unserved = [role for role, path in fields.targets.items() if path not in fields.fill]
    if unserved:
        raise ValueError(
            f"the batch has {_listed(fields)}, but the synthesizer returns none: synthetic rows cannot have them"
        )
    if fields.labels is not None and getattr(settings.synthesizer, "num_classes", None) is None:
        raise ValueError(
            f"the batch has labels at {batches.show(fields.labels)}, but the synthesizer has no classes: give it "
            'num_classes, or deny labels with fields={"labels": None}'
        )
    n = batches.count(batches.get(batch, fields.images))
    # The tag is given to all rows later.
    roles = {fields.images, fields.labels, *fields.targets.values(), (settings.tag,)}
    for path, value in batches.columns(batch, n, fields.images):
        if path not in roles and path not in fields.fill and batches.is_column(value, n):
            what = batches.describe_leaf(value)
            if fields.labels is None:
                what += " (not labels, which are class indices (N,) or probabilities (N, K))"
            key = path[0] if len(path) == 1 else path
            # As in (label, image), which is not guessed.
            classes = fields.labels is None and isinstance(value, Tensor) and value.ndim == 1
            if classes and not value.is_floating_point() and value.dtype is not torch.bool:
                what += f"; if these are the labels, name them with fields={{'labels': {key!r}}}"
            raise ValueError(
                f"synthetic rows have no value for field {batches.show(path)}, {what}: "
                f"give one with fields={{'fill': {{{key!r}: ...}}}}"
            )


def check_real(images: batches.Images, settings: Settings) -> None:
    """Raise where real images cannot stand beside what the synthesizer draws."""
    shape = getattr(settings.synthesizer, "image_shape", None)
    for part in [images] if isinstance(images, Tensor) else images:
        if shape is not None and part.shape[-3] != shape[0]:
            raise ValueError(f"real images have {part.shape[-3]} channels, but synthetic ones have {shape[0]}")
        # Said here too, because batches of one item would never hold both sizes.
        if shape is not None and not settings.program.stages and part.numel() and part.shape[-2:] != tuple(shape[1:]):
            raise size_error(part[:1] if part.ndim == 4 else [part], [torch.empty(shape)])
        check_range(
            part,
            "real images must be in [0, 1] to be mixed with synthetic ones, got {}: if they are already "
            "normalised, move Normalize from the dataset into transform",
        )


def _listed(fields: Fields) -> str:
    return ", ".join(f"{role} at {batches.show(path)}" for role, path in fields.targets.items())
