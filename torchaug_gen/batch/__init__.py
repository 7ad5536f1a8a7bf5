"""Where images, labels and targets sit in a user's batch; take it apart, put it back.

A batch is whatever a ``collate_fn`` returns: nested dicts, tuples, lists, NamedTuples and dataclasses around *leaves*.
A leaf is found by its *path*, the keys and indices that lead to it. A leaf with one entry per item is a *column*: a
tensor or array whose first dimension is N, or a list or tuple of N things. All other leaves are constants.
"""

from torchaug_gen.batch.columns import columns, concatenate, is_column, put, spread, take
from torchaug_gen.batch.describing import describe, describe_leaf
from torchaug_gen.batch.devices import move, tensors, to_device
from torchaug_gen.batch.fields import (
    ROLES,
    TARGETS,
    Fields,
    assert_images,
    assert_labels,
    check_roles,
    find_fields,
)
from torchaug_gen.batch.images import Images, count, is_images
from torchaug_gen.batch.labels import is_labels
from torchaug_gen.batch.structure import Key, Path, add, as_path, get, replace, show

__all__ = [
    "ROLES",
    "TARGETS",
    "Fields",
    "Images",
    "Key",
    "Path",
    "add",
    "as_path",
    "assert_images",
    "assert_labels",
    "check_roles",
    "columns",
    "concatenate",
    "count",
    "describe",
    "describe_leaf",
    "find_fields",
    "get",
    "is_column",
    "is_images",
    "is_labels",
    "move",
    "put",
    "replace",
    "show",
    "spread",
    "take",
    "tensors",
    "to_device",
]
