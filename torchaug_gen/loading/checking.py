"""Checks on what comes from the inner loader, before it is mixed with synthetic items."""

from typing import Any

import torch
from torch import Tensor

from torchaug_gen import batch as batches
from torchaug_gen.augment.rows import size_error
from torchaug_gen.batch import Fields
from torchaug_gen.loading.settings import Settings
from torchaug_gen.pixels import check_range


def check_present(batch: Any, fields: Fields) -> None:
    """Raise where a batch lacks a field that the first one had."""
    for path in filter(None, (fields.images, fields.labels, *fields.targets.values(), *fields.fill)):
        try:
            batches.get(batch, path)
        except (AttributeError, IndexError, KeyError, TypeError):
            raise ValueError(
                f"the batch has no field {batches.show(path)}, as those before it have, but {batches.describe(batch)}"
            ) from None


def constants_of(batch: Any, fields: Fields) -> frozenset[batches.Path]:
    """Return the paths of what a batch holds once, and not once for each item, and of the lists they are in."""
    n = batches.count(batches.get(batch, fields.images))
    leaves = batches.columns(batch, n, fields.images)
    paths = [path for path, value in leaves if value is not None and not batches.is_column(value, n)]
    return frozenset(path[:depth] for path in paths for depth in range(len(path) + 1))


def check_fill(batch: Any, fields: Fields) -> None:
    """Raise where a fill value does not go into the field that it is for."""
    nothing = torch.empty(0, dtype=torch.int64)
    for path, fill in fields.fill.items():
        column = batches.get(batch, path)
        try:
            batches.spread(batches.take(column, nothing), nothing, 1, fill)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"fields['fill'] must give a value for field {batches.show(path)}, {batches.describe_leaf(column)}, "
                f"got {fill!r} ({error})"
            ) from None


def check_fields(batch: Any, fields: Fields, settings: Settings, *, constants: frozenset[batches.Path]) -> None:
    """Raise where the batch has fields that the transform or the synthesizer cannot serve.

    Args:
        batch: see above.
        fields: of the pass.
        settings: of the loader, which mixes.
        constants: of the first batch; one of them may be as long as a batch by chance.
    """
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
    for path in fields.fill:
        _check_filled(batches.get(batch, path), path, n)
    # The tag is given to all rows later.
    served = {fields.images, fields.labels, *fields.targets.values(), (settings.tag,), *fields.fill, *constants}
    for path, value in batches.columns(batch, n, fields.images):
        # Of one item, a list of one tensor looks like a list of fields.
        within = any(path[:depth] in served for depth in range(len(path) + 1))
        if n and not within and batches.is_column(value, n):
            raise _unfilled(path, value, fields)


def _check_filled(value: Any, path: batches.Path, n: int) -> None:
    if not batches.is_column(value, n):
        raise ValueError(
            f"field {batches.show(path)} must have one entry for each of the {n} images to be filled in synthetic "
            f"rows, got {batches.describe_leaf(value)}"
        )
    if isinstance(value, Tensor) and (value.layout is not torch.strided or value.is_nested):
        raise ValueError(
            f"field {batches.show(path)} must be a dense tensor to be filled in synthetic rows, got "
            f"{value.layout}: call to_dense() in the collate_fn"
        )


def _unfilled(path: batches.Path, value: Any, fields: Fields) -> ValueError:
    what = batches.describe_leaf(value)
    if fields.labels is None:
        what += " (not labels, which are class indices (N,) or probabilities (N, K))"
    key = path[0] if len(path) == 1 else path
    # As in (label, image), which is not guessed.
    classes = fields.labels is None and isinstance(value, Tensor) and value.ndim == 1
    if classes and not value.is_floating_point() and value.dtype is not torch.bool:
        what += f"; if these are the labels, name them with fields={{'labels': {key!r}}}"
    return ValueError(
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
