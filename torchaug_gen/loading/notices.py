"""Warnings, once each, of what would go wrong without a word."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torchaug_gen.loading.adapters import share_of
from torchaug_gen.loading.order import is_map_style
from torchaug_gen.loading.readers import Reader
from torchaug_gen.loading.state import Progress
from torchaug_gen.ranks import rank


class Notices:
    """What one loader has warned of."""

    def __init__(self) -> None:
        self._length: int | None = None
        self._of_ranks = self._of_length = False

    def told(self, length: int) -> int:
        """Note a length that somebody was told, and return it."""
        self._length = self._length or length
        return length

    def of_ranks(self, loader: Any) -> None:
        """Warn where every rank reads all of a map-style loader."""
        ranks = rank().count
        if self._of_ranks or ranks < 2 or not is_map_style(loader) or share_of(loader) is not None:
            return
        self._of_ranks = True
        warnings.warn(
            f"each of {ranks} ranks reads the whole data set: give the loader a "
            "torch.utils.data.DistributedSampler, so that they share it out",
            RuntimeWarning,
            stacklevel=6,
        )

    def of_length(self, epoch: int, length_of: Callable[[int], int]) -> None:
        """Warn where an epoch has another length than the first one that was told."""
        try:
            length = length_of(epoch)
        except TypeError:
            return
        if self._length not in (None, length) and not self._of_length:
            self._of_length = True
            warnings.warn(
                f"epoch {epoch} has {length} batches, but an earlier one had {self._length}: the schedule of "
                "synthetic_fraction changes the length of a rebatched epoch, which some frameworks ask for only "
                'once; mixing="extend" and "replace" keep it',
                RuntimeWarning,
                stacklevel=6,
            )
        self.told(length)

    def of_order(self, reader: Reader, epoch: int) -> None:
        """Warn where the order of an epoch that is gone on with may be another one in this process."""
        # In the first epoch a new sampler has nothing to remember.
        if not epoch or reader.is_repeatable(epoch):
            return
        warnings.warn(
            f"the sampler of {type(reader.loader).__name__} gives another order each time it is asked, whatever the "
            f"epoch, so that epoch {epoch} cannot be gone on with exactly: give it set_epoch(epoch), and draw from "
            "that, or state_dict() and load_state_dict(state)",
            RuntimeWarning,
            stacklevel=3,
        )

    def of_epoch(self, resume: Progress, epoch: int, length_of: Callable[[int], int]) -> None:
        """Warn where a state of the middle of an epoch is given up for another epoch."""
        with suppress(TypeError):
            if resume.step >= length_of(resume.epoch):
                return
        warnings.warn(
            f"the state that was loaded is of epoch {resume.epoch}, but epoch {epoch} was set since: it begins at "
            "its start",
            RuntimeWarning,
            stacklevel=6,
        )
