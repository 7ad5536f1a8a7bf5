"""Place: how far one consumer of a mixed stream has come."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import IterableDataset


@dataclass
class Place:
    """How far one consumer has come in a pass.

    Attributes:
        real: how many items of the real data set it has passed, also those of other consumers.
        synthetic: how many synthetic items it has delivered.
        ended: whether the real data set is known to have no more.
        inner: the state of the real data set before an item that was read, but is not yet delivered; ``None`` where its
            own is right.
    """

    real: int = 0
    synthetic: int = 0
    ended: bool = False
    inner: Any = None

    def to_state(self, dataset: Any) -> dict[str, Any]:
        """Return the place as a state dict, with the state of the real data set, where it keeps one."""
        inner = state_of(dataset) if self.inner is None else self.inner
        return {"real": self.real, "synthetic": self.synthetic, "ended": self.ended, "inner": inner}

    @staticmethod
    def from_state(state: Mapping[str, Any], dataset: Any) -> "Place":
        """Return the place of a state dict, and have the real data set begin there."""
        place = Place(int(state["real"]), int(state["synthetic"]), bool(state["ended"]))
        if keeps_state(dataset):
            dataset.load_state_dict(state["inner"])
        elif can_seek(dataset) and not place.ended:
            dataset.seek(place.real)
        elif isinstance(dataset, IterableDataset) and place.real and not place.ended:
            warnings.warn(
                f"{type(dataset).__name__} cannot be positioned: {place.real} items are read and thrown away to go on "
                "behind them, which is exact only where it delivers the same again; give it seek(position), or "
                "state_dict() and load_state_dict(state)",
                RuntimeWarning,
                stacklevel=3,
            )
        return place


def state_of(dataset: Any) -> Any:
    """Return the state of a data set, or ``None`` where it keeps none."""
    return dataset.state_dict() if keeps_state(dataset) else None


def keeps_state(dataset: Any) -> bool:
    """Say whether a data set can be asked for its state, and be given it."""
    return all(callable(getattr(dataset, name, None)) for name in ("state_dict", "load_state_dict"))


def can_seek(dataset: Any) -> bool:
    """Say whether a stream can be begun behind a number of items."""
    return isinstance(dataset, IterableDataset) and callable(getattr(dataset, "seek", None))
