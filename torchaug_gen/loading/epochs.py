"""The epoch of a loader, kept in step with the samplers and datasets inside it that know epochs too."""

from collections.abc import Callable, Iterator
from typing import Any

from torchaug_gen.rng import check_epoch


class ListeningSampler:
    """A loader's sampler as frameworks see it: what they tell it of epochs, the loader hears.

    Lightning and timm know no ``set_epoch`` of loaders, only of their samplers. Otherwise it is the sampler itself.

    Args:
        sampler: the inner loader's.
        hear: is told the epoch.
    """

    def __init__(self, sampler: Any, hear: Callable[[int], None]) -> None:
        self._sampler, self._hear = sampler, hear

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader."""
        self._hear(epoch)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_sampler" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._sampler, name)


class Epochs:
    """Counts passes, tells whoever listens, and adopts an epoch that somebody else has set since.

    Args:
        loader: the inner loader; it, its dataset and its samplers listen where they have ``set_epoch``.
    """

    def __init__(self, loader: Any) -> None:
        batch_sampler = getattr(loader, "batch_sampler", None)
        parts = (
            loader,
            getattr(loader, "sampler", None),
            batch_sampler,
            getattr(batch_sampler, "sampler", None),
            getattr(loader, "dataset", None),
        )
        unique: dict[int, Any] = {id(part): part for part in parts if callable(getattr(part, "set_epoch", None))}
        self._listeners: list[Any] = list(unique.values())
        # What each showed when it was told last; at first, what one shows that nobody has told.
        self._shown: list[Any] = [0 if hasattr(listener, "epoch") else None for listener in self._listeners]
        self._next = 0

    def set(self, epoch: int) -> None:
        """Make the next pass epoch ``epoch``.

        Raises:
            TypeError: not an integer.
            ValueError: not in 0..2³²-1.
        """
        self._next = check_epoch(epoch)
        self._tell(epoch)

    def peek(self) -> int:
        """Return the epoch of the coming pass."""
        for listener, shown in zip(self._listeners, self._shown, strict=True):
            # DDP scripts and Lightning set the sampler's epoch themselves: that one counts.
            epoch = getattr(listener, "epoch", None)
            if isinstance(epoch, int) and epoch != shown:
                return epoch
        return self._next

    def begin(self) -> int:
        """Return the epoch of a pass that is about to begin, and tell it.

        The coming pass stays that one until it is counted: what prevents it from beginning costs no epoch.
        """
        epoch = self.peek()
        self.set(epoch)
        return epoch

    def count(self, epoch: int) -> None:
        """Note that the pass of an epoch has begun."""
        self._next = epoch + 1

    def _tell(self, epoch: int) -> None:
        for listener in self._listeners:
            listener.set_epoch(epoch)
        # In place: copies of the loader tell the same listeners, and none takes the other for somebody else.
        self._shown[:] = [getattr(listener, "epoch", None) for listener in self._listeners]
