"""Synthetic items by position, from a synthesizer or a data set."""

from typing import Any

import torch
from torch.utils.data import IterableDataset

from torchaug_gen import rng
from torchaug_gen.datasets.classes import ItemClasses
from torchaug_gen.datasets.drawing import draw, draws, fetch
from torchaug_gen.datasets.template import Template
from torchaug_gen.epoch import SharedEpoch


class SyntheticItems:
    """Synthetic items by position, from a synthesizer or a data set."""

    def __init__(self, source: Any, seed: int, *, real: Any, labels: Any) -> None:
        if not draws(source) and not isinstance(source, IterableDataset):
            if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
                raise TypeError(
                    f"synthetic must be a synthesizer or a data set, got {type(source).__name__}: wrap a network with "
                    "Synthesizer.from_module"
                )
            if len(source) == 0:
                raise ValueError("the synthetic data set must have items, got an empty one")
        self.source = source
        self.epoch = SharedEpoch()
        self._seed = rng.check_seed(seed)
        self._template: Template | None = None
        classes = getattr(source, "num_classes", None) if draws(source) else None
        if labels is not None and classes is None:
            what = "the synthesizer has no classes" if draws(source) else "items of a synthetic data set have theirs"
            raise ValueError(f"labels chooses the classes to draw, but {what}: leave it out, got {labels!r}")
        self._classes = None if classes is None else ItemClasses(labels, real, classes, seed=self._seed)

    def imitate(self, item: Any, real: Any) -> None:
        """Make a synthesizer's items look like ``item``, or like the first of ``real`` where there is none at hand."""
        if self.needs_example:
            if item is None and isinstance(real, IterableDataset):
                item = next(iter(real))
            self._template = Template(real[0] if item is None else item, self.source)

    @property
    def needs_example(self) -> bool:
        """Whether it is not known yet what items have to look like."""
        return self._template is None and draws(self.source)

    def checked(self, item: Any) -> Any:
        """Return a real item, or raise ``ValueError`` where it cannot stand beside synthetic ones."""
        if self._template is not None:
            self._template.check(item)
        return item

    def items(self, positions: list[int]) -> list[Any]:
        """Return the synthetic items at these positions."""
        if self._template is None:
            return fetch(self.source, [position % len(self.source) for position in positions])
        where, epoch = torch.tensor(positions), self.epoch.get()
        labels = None if self._classes is None else self._classes.of(where, epoch=epoch)
        images, labels = draw(self.source, where, labels, seed=self._seed, epoch=epoch)
        return self._template.items(images, labels)
