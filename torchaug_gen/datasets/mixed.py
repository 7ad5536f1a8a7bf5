"""MixedDataset: a map-style data set with synthetic items between the real ones."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch.utils.data import Dataset

from torchaug_gen.datasets.drawing import check_class_count, checked_index, fetch, tell
from torchaug_gen.datasets.items import SyntheticItems
from torchaug_gen.mixing import Tally, as_fraction


class MixedDataset(Dataset[Any]):
    """A map-style data set of all items of a real one, with synthetic ones between them.

    The first n items hold ``ceil(synthetic_fraction · n)`` synthetic ones, for every n, and each real item comes once.
    Which item stands where is index arithmetic. A stock ``DataLoader`` asks for whole batches at a time, so that the
    synthesizer draws a batch's synthetic items together.

    Args:
        real: a map-style data set of tensors: ``image``, ``(image, label)``, or a structure of them.
        synthetic: a :class:`torchaug_gen.Synthesizer`, whose items look like real ones (dtype, type of label), or a
            map-style data set, taken in order and from its start again.
        synthetic_fraction: synthetic items / all items, in [0, 1).
        labels: which classes a synthesizer draws: ``None`` for each in turn, ``"match"`` for labels drawn from those of
            the real items, ``"balance"`` for the class of which there are least by then, ``(K,)`` weights, or a
            callable ``(real_labels, positions) -> labels``. The labels of the real items must be known without loading
            them for ``"match"`` and ``"balance"``: those of a ``TensorDataset``, of torchvision's data sets, and of
            ``Subset``s of them are.
        seed: 0 ≤ seed < 2⁶⁴.

    Raises:
        ValueError: a fraction out of range, an empty data set, classes, channels or sizes that differ between real and
            synthetic, real images outside [0, 1], fields that a synthesizer cannot fill, or a synthesizer on CUDA
            in a DataLoader worker.
        TypeError: ``synthetic`` is neither a synthesizer nor a data set.

    Without shuffling, a sampler that takes every n-th item may meet the pattern of real and synthetic ones: shuffle, or
    wrap the loader instead.
    """

    def __init__(
        self,
        real: Any,
        synthetic: Any,
        *,
        synthetic_fraction: float | Fraction,
        labels: Any = None,
        seed: int = 0,
    ) -> None:
        if len(real) == 0:
            raise ValueError("the real data set must have items, got an empty one")
        self.dataset = real
        self._fraction = as_fraction(synthetic_fraction)
        self._length = sum(Tally().extend(self._fraction, len(real)))
        self._synthetic = SyntheticItems(synthetic, seed, real=real, labels=labels)
        check_class_count(real, synthetic)

    def set_epoch(self, epoch: int) -> None:
        """Draw other synthetic items from now on, also in persistent workers; a data set inside is told."""
        self._synthetic.epoch.set(epoch)
        tell(epoch, self.dataset, self._synthetic.source)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        wanted = [checked_index(index, self._length) for index in indices]
        places = {index: _synthetic_before(self._fraction, index) for index in wanted}
        synthetic = {at: k for at, k in places.items() if _synthetic_before(self._fraction, at + 1) > k}
        real = [at for at in dict.fromkeys(wanted) if at not in synthetic]
        items = dict(zip(real, fetch(self.dataset, [at - places[at] for at in real]), strict=True))
        # A real item shows what synthetic ones have to look like; one of this batch costs nothing.
        if self._fraction:
            self._synthetic.imitate(items[real[0]] if real else None, self.dataset)
        for at in real:
            self._synthetic.checked(items[at])
        if synthetic:
            items |= zip(synthetic, self._synthetic.items(list(synthetic.values())), strict=True)
        return [items[at] for at in wanted]


def _synthetic_before(fraction: Fraction, n: int) -> int:
    """Return how many of the first ``n`` items are synthetic: ceil(fraction · n)."""
    return -(-fraction.numerator * n // fraction.denominator)
