"""Columns: the leaves of a batch that have one entry for each item."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.batch.devices import to_device
from torchaug_gen.batch.images import is_image_list
from torchaug_gen.batch.structure import Path, is_sequence, leaves_of

# What NumPy has a type for; complex numbers may be views that it cannot see.
_NUMPYS = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64),
}

# What is no column itself, so that a list of it is one.
_ENTRIES = {str, bytes, int, float, bool, dict, type(None)}


def columns(batch: Any, n: int, images: Path | None = None) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of all leaves of a batch of ``n`` items: columns and constants.

    A list on the way to ``images`` holds fields and not items, also where it happens to be ``n`` long.
    """

    def stop(path: Path, value: Sequence[Any]) -> bool:
        if images is not None and path == images[: len(path)]:
            return path == images
        return is_column_list(value, n)

    return leaves_of(batch, (), stop)


def is_column(value: Any, n: int) -> bool:
    """Say whether a leaf has one entry for each of ``n`` items."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and len(value) == n
    return is_sequence(value) and len(value) == n


def is_column_list(value: Sequence[Any], n: int) -> bool:
    """Tell a list with one entry per item from a list of fields, whose tensors each have ``n`` rows."""
    if len(value) != n:
        return False
    if _ENTRIES.issuperset(map(type, value)):
        # As of names and boxes; looking at each takes ten times as long.
        return True
    fields = [is_column(item, n) for item in value]
    # Entries of one column are of one type, so a column beside something else is a field.
    mixed = any(fields) and len({type(item) for item in value}) > 1
    return (not (fields and all(fields)) and not mixed) or is_image_list(value)


def take(column: Any, rows: Tensor) -> Any:
    """Return the given rows, an ``(M,)`` int64 tensor, of a column as a column of the same type."""
    if isinstance(column, Tensor):
        if _is_plain(column):
            return torch.from_numpy(column.numpy()[rows.numpy()])
        return column[to_device(rows, column.device)]
    if isinstance(column, np.ndarray):
        return column[rows.numpy()]
    return type(column)([column[row] for row in rows.tolist()])


def put(column: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write ``values`` ``(M, ...)``, on the column's device, to the given rows, ``(M,)`` int64, of a column."""
    if _is_plain(column) and _is_plain(values):
        column.numpy()[rows.numpy()] = values.numpy()
    else:
        column[to_device(rows, column.device)] = values


def concatenate(parts: Sequence[Any]) -> Any:
    """Join columns of one field, of the first one's type.

    Raises:
        ValueError: shapes that cannot be joined.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"rows of different shapes cannot be joined, got {' and '.join(map(str, shapes))}")
        return torch.cat(list(parts))
    if isinstance(first, np.ndarray):
        return np.concatenate(list(parts))
    return type(first)([item for part in parts for item in part])


def spread(column: Any, rows: Tensor, n: int, fill: Any) -> Any:
    """Place a column's entries at ``rows`` of a column of ``n``, and ``fill`` everywhere else."""
    if isinstance(column, Tensor):
        wide = column.new_empty((n, *column.shape[1:]))
        wide[:] = to_device(torch.as_tensor(fill, dtype=column.dtype), column.device)
        put(wide, rows, column)
        return wide
    if isinstance(column, np.ndarray):
        array = np.empty((n, *column.shape[1:]), dtype=column.dtype)
        array[:] = fill
        array[rows.numpy()] = column
        return array
    items = [fill] * n
    for row, item in zip(rows.tolist(), column, strict=True):
        items[row] = item
    return type(column)(items)


def _is_plain(column: Tensor) -> bool:
    """Say whether NumPy can index a column, which takes a tenth of the time.

    PyTorch does rows of bytes an element at a time, with all its threads, which then spin beside those of workers.
    """
    on_host = type(column) is Tensor and column.device.type == "cpu" and column.layout is torch.strided
    return on_host and not column.requires_grad and column.dtype in _NUMPYS
