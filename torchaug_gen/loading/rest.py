"""Rest: what a synthesizer does ahead of being asked stops with the pass that it was for."""

from collections.abc import Callable, Iterator
from typing import Any

from torchaug_gen.loading.plan import Delivery, Plan

# Pools, gates and labellers keep what they draw from as ``.synthesizer``; mocks keep anything, without end.
_DEPTH = 8


def layers(synthesizer: Any) -> Iterator[Any]:
    """Yield a synthesizer, the one inside it, the one inside that, and so on."""
    for _ in range(_DEPTH):
        if synthesizer is None:
            return
        yield synthesizer
        synthesizer = getattr(synthesizer, "synthesizer", None)


class Resting:
    """Composes batches, and has the synthesizer draw nothing ahead any more once the pass is over or broken off.

    Args:
        compose: makes the batch of a plan; may be doing so in another thread when the pass ends.
        synthesizer: whose ``rest()``, or that of one inside it, is called.
    """

    def __init__(self, compose: Callable[[Plan], Delivery], synthesizer: Any) -> None:
        self._compose = compose
        self._rests: list[Callable[[], Any]] = [
            layer.rest for layer in layers(synthesizer) if callable(getattr(layer, "rest", None))
        ]
        self._ended = False

    def __call__(self, plan: Plan) -> Delivery:
        """Return the batch of a plan."""
        try:
            return self._compose(plan)
        finally:
            # The last batch that nobody takes has asked for what would come behind it.
            if self._ended:
                self.end()

    def end(self) -> None:
        """Let the synthesizer rest from now on."""
        self._ended = True
        for rest in self._rests:
            rest()
