"""Samplers that remember: what they did in one epoch decides the order of the next."""

from collections.abc import Iterator
from typing import Any

from torchaug_gen.loading import codec
from torchaug_gen.loading.adapters import is_stateful


def nested(sampler: Any) -> Iterator[Any]:
    """Yield a sampler, and those that it takes its indices from."""
    # Accelerate's samplers keep the batch sampler that they share out as ``batch_sampler``.
    inner = (getattr(sampler, name, None) for name in ("sampler", "batch_sampler"))
    yield sampler
    for one in inner:
        if one is not None:
            yield from nested(one)


def remembers(sampler: Any) -> bool:
    """Say whether a sampler keeps a state that its order follows from.

    One with ``set_epoch`` takes its order from the epoch: its state, as of torchdata's ``StatefulDistributedSampler``,
    says how far it has come in it, which is said by positions here.
    """
    return is_stateful(sampler) and not callable(getattr(sampler, "set_epoch", None))


class Memory:
    """What the samplers of a loader remember.

    Args:
        sampler: the loader's sampler or batch sampler.
    """

    def __init__(self, sampler: Any) -> None:
        self._samplers = [one for one in nested(sampler) if remembers(one)]

    def __bool__(self) -> bool:
        return bool(self._samplers)

    def state(self) -> list[Any]:
        """Return it as JSON."""
        return [codec.encode(one.state_dict(), where=f"the state of {type(one).__name__}") for one in self._samplers]

    def load(self, states: list[Any]) -> None:
        """Have the samplers remember what :meth:`state` returned."""
        for one, state in zip(self._samplers, states, strict=True):
            one.load_state_dict(codec.decode(state))
