"""Labels: class indices ``(N,)`` or class probabilities ``(N, K)``, and the names of classes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from torchaug_gen.wrapped import unwrapped


def class_indices(labels: Tensor | Sequence[int]) -> Tensor:
    """Return class indices ``(N,)`` as integers, none at all where the list is empty, or raise ``ValueError``."""
    labels = torch.as_tensor(labels)
    if labels.shape == (0,):
        # An empty list becomes floating.
        return labels.to(torch.int64)
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be (N,) class indices, got shape {tuple(labels.shape)} of {labels.dtype}")
    return labels


def check_labels(labels: Tensor, num_classes: int, *, what: str = "labels") -> None:
    """Raise ``ValueError`` where a class index is not in ``0..num_classes-1``; on CUDA the device asserts it later."""
    if not len(labels):
        return
    if labels.is_cuda:
        # Reading the extremes back would make the host wait; an assertion on the device does not.
        inside = ((labels >= 0) & (labels < num_classes)).all()
        torch._assert_async(inside, f"{what} must be in 0..{num_classes - 1}")
        return
    # Of a batch's labels in a third of the time that PyTorch takes.
    values = labels.numpy()
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{what} must be in 0..{num_classes - 1}, got {low}..{high}")


def check_probabilities(labels: Tensor, *, what: str, otherwise: str) -> None:
    """Raise ``ValueError`` where a row of labels ``(N, K)``, floating and on the CPU, is no distribution over classes.

    Args:
        labels: see above.
        what: what they are called in the error.
        otherwise: what to do with numbers that are no probabilities.
    """
    # Rounding moves a sum of 1 by no more than half of what the dtype can tell apart there.
    tolerance = max(1e-3, torch.finfo(labels.dtype).eps)
    rows = labels.double()
    # Written so that NaN fails too.
    wrong = ~((rows >= -tolerance).all(1) & ((rows.sum(1) - 1).abs() <= tolerance))
    if wrong.any():
        row = rows[wrong.nonzero()[0, 0]]
        raise ValueError(
            f"{what} must be class probabilities, rows in [0, 1] that sum to 1, got one in "
            f"{row.min():g}..{row.max():g} that sums to {row.sum():g}: {otherwise}"
        )


def soft_labels(labels: Tensor, num_classes: int | None) -> Tensor:
    """Return labels as probabilities ``(N, K)``: hard ones one-hot in float32, soft ones as they are.

    Raises:
        ValueError: hard labels without ``num_classes``, or outside 0..K-1; soft labels of another number of classes.
    """
    if labels.ndim == 2:
        if num_classes is not None and labels.shape[1] != num_classes:
            raise ValueError(
                f"labels must be (N, {num_classes}) for num_classes={num_classes}, got {tuple(labels.shape)}"
            )
        return labels
    if num_classes is None:
        raise ValueError(
            "labels that are class indices can be blended only where num_classes is known: MixUp(num_classes=...)"
        )
    check_labels(labels, num_classes)
    return F.one_hot(labels.to(torch.int64), num_classes).float()


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of a data set's classes, found as torchvision keeps them, also through ``Subset``s.

    ``None`` where it does not tell.
    """
    for part in unwrapped(dataset):
        classes = getattr(part, "classes", None)
        if isinstance(classes, list | tuple):
            return tuple(map(str, classes))
    return None


def known_labels(dataset: Any) -> Tensor | None:
    """Return the labels of all items of a data set, ``(N,)`` int64, without loading one, or ``None``.

    Only of kinds whose items surely have these labels: ``TensorDataset``, torchvision's own, and ``Subset``s of them.
    """
    if type(dataset) is Subset:
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    found: Any = None
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        found = dataset.tensors[1]
    elif type(dataset).__module__.startswith("torchvision.datasets.") and dataset.target_transform is None:
        found = getattr(dataset, "targets", None)
    labels = torch.as_tensor(found) if isinstance(found, list | Tensor) else None
    if labels is None or labels.shape != (len(dataset),) or labels.is_floating_point():
        return None
    return labels.to(torch.int64)


def class_count(dataset: Any) -> int | None:
    """Return how many classes a data set says that it has, by their names or as ``num_classes``, or ``None``."""
    names = class_names(dataset)
    if names is not None:
        return len(names)
    told = (getattr(part, "num_classes", None) for part in unwrapped(dataset))
    return next((number for number in told if type(number) is int), None)
