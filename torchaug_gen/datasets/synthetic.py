"""SyntheticDataset: items that are drawn when they are asked for."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchaug_gen import rng
from torchaug_gen.datasets.drawing import checked_index, draw, draws
from torchaug_gen.epoch import SharedEpoch
from torchaug_gen.labels import check_labels
from torchaug_gen.seeded import Seeded


class SyntheticDataset(Dataset[Any]):
    """A map-style data set whose items are drawn by a synthesizer when they are asked for.

    Item i is a function of (seed, epoch, i): the same for any batch size, order and number of workers.

    Args:
        synthesizer: a :class:`torchaug_gen.Synthesizer`, on the CPU if DataLoader workers are to draw.
        length: the number of items, ≥ 1.
        labels: ``(length,)`` classes to draw; left out, item i has class ``i % num_classes``.
        seed: 0 ≤ seed < 2⁶⁴.
        transform: called with each image, ``(C, H, W)``, under a seeded generator.

    Items are ``(image, label)``: a tensor ``(C, H, W)``, floating in [0, 1] or uint8, and an int; for a synthesizer
    without classes, the image alone.

    Raises:
        ValueError: a length below 1, labels that do not fit, or a synthesizer on CUDA in a DataLoader worker.
    """

    def __init__(
        self,
        synthesizer: Any,
        length: int,
        *,
        labels: Tensor | Sequence[int] | None = None,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if not draws(synthesizer):
            raise TypeError(
                f"synthesizer must have .sample(...), got {type(synthesizer).__name__}: wrap a network with "
                "Synthesizer.from_module"
            )
        if operator.index(length) < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.synthesizer = synthesizer
        self.length = length
        self.seed = rng.check_seed(seed)
        self.transform = transform
        self.labels = _item_labels(synthesizer, length, labels)
        self._epoch = SharedEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on, also in persistent workers."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        positions = torch.tensor([checked_index(index, self.length) for index in indices])
        epoch = self._epoch.get()
        labels = None if self.labels is None else self.labels[positions]
        images, _ = draw(self.synthesizer, positions, labels, seed=self.seed, epoch=epoch)
        items = [self._transformed(image, epoch, int(at)) for image, at in zip(images, positions, strict=True)]
        return items if labels is None else list(zip(items, labels.tolist(), strict=True))

    def _transformed(self, image: Tensor, epoch: int, position: int) -> Any:
        if self.transform is None:
            return image
        with Seeded(rng.derive_seed(self.seed, "synthetic_dataset.transform", epoch, position)):
            return self.transform(image)


def _item_labels(synthesizer: Any, length: int, labels: Tensor | Sequence[int] | None) -> Tensor | None:
    num_classes = getattr(synthesizer, "num_classes", None)
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels were given, but the synthesizer has no classes")
        return None
    if labels is None:
        cycled: Tensor = torch.arange(length) % num_classes
        return cycled
    given = torch.as_tensor(labels)
    if given.shape != (length,) or given.is_floating_point():
        raise ValueError(f"labels must be ({length},) class indices, got {tuple(given.shape)} of {given.dtype}")
    check_labels(given, num_classes)
    return given.to(torch.int64)
