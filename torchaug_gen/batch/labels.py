"""Labels in a batch: a column of class indices or probabilities."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.batch.columns import is_column
from torchaug_gen.batch.structure import is_sequence


def is_labels(value: Any) -> bool:
    """Say whether a leaf is a column of labels: integers ``(N,)`` or probabilities ``(N, K)``."""
    if isinstance(value, Tensor):
        hard = value.ndim == 1 and not value.is_floating_point() and value.dtype is not torch.bool
        return hard or (value.ndim == 2 and value.is_floating_point())
    if isinstance(value, np.ndarray):
        return (value.ndim, value.dtype.kind) in ((1, "i"), (1, "u"), (2, "f"))
    return is_sequence(value) and all(isinstance(item, int | np.integer) and type(item) is not bool for item in value)


def are_labels(value: Any, n: int) -> bool:
    """Say whether a leaf is the labels of ``n`` items."""
    return is_labels(value) and is_column(value, n)
