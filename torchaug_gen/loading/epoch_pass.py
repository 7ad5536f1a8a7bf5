"""Pass: the iterator over one epoch of an AugmentedLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchaug_gen.loading.plan import Plan
from torchaug_gen.loading.prefetch import Prefetcher

if TYPE_CHECKING:
    from torchaug_gen.loading.loader import AugmentedLoader


class Pass:
    """One pass over the loader; it begins, and takes its epoch, at the first ``next``.

    It is a class and not a generator, so that it goes on after an error in one batch. Attributes of the inner iterator
    are reached through it.
    """

    def __init__(self, loader: AugmentedLoader[Any]) -> None:
        self._loader = loader
        self._inner: Any = None
        self._prefetcher: Prefetcher[Plan, Any] | None = None
        self.superseded = False

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        if self.superseded:
            raise RuntimeError(
                "this pass has ended: a newer pass over the loader took over its persistent workers; use two loaders "
                "to iterate twice at a time"
            )
        first = self._prefetcher is None
        if self._prefetcher is None:
            self._inner, self._prefetcher = self._loader._begin(self)
        try:
            plan, batch = self._prefetcher.next()
        except StopIteration:
            if first:
                raise ValueError(
                    "the loader delivered no batch: its dataset is empty, or drop_last drops the only batch"
                ) from None
            raise
        self._loader.stats.count(real=plan.real, synthetic=plan.synthetic)
        return batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("_inner")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)
