"""What is left of an epoch, for another number of workers or ranks than those that began it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from torchaug_gen.loading import codec, streams
from torchaug_gen.loading.fingerprint import check_fingerprint
from torchaug_gen.loading.inner import Inner
from torchaug_gen.loading.state import from_state
from torchaug_gen.ranks import Share

# What follows from the number of ranks, or is each rank's own to choose.
_FREE = ("ranks", "items", "batch_size")


def is_elastic(dataset: Any) -> bool:
    """Say whether a data set deals what is left of an epoch anew, as a ``ShardStream`` with an index does."""
    return all(callable(getattr(dataset, name, None)) for name in ("resume", "after"))


def own(state: Any, inner: Inner) -> Any:
    """Return the state that a loader goes on from: its own, or what follows for it from those of all other ranks.

    Args:
        state: a state, or those of all ranks.
        inner: what the loader wraps.

    Raises:
        ValueError: as in :func:`joined`.
    """
    dataset = getattr(inner.loader, "dataset", None)
    states = list(state) if isinstance(state, list | tuple) else [state]
    if is_elastic(dataset) and any(_is_for_others(each, inner) for each in states):
        return joined(states, dataset, inner.fingerprint, rank=inner.rank)
    # Where nothing has changed, its own is exact.
    own = (each for each in states if isinstance(each, Mapping) and each.get("rank") == inner.rank.index)
    # Another's, where it has none, is refused by what differs.
    return next(own, states[0] if states else state)


def _is_for_others(state: Any, inner: Inner) -> bool:
    """Say whether a state is that of a loader with another number of workers, or of ranks."""
    if not isinstance(state, Mapping):
        return False
    position = state.get("position")
    workers = position.get("workers") if isinstance(position, Mapping) else None
    others = workers is not None and workers != getattr(inner.loader, "num_workers", workers)
    return others or state.get("settings", {}).get("ranks", 0) not in (0, inner.rank.count)


def joined(
    states: Sequence[Mapping[str, Any]], dataset: Any, mine: Callable[[int, int], dict[str, Any]], *, rank: Share
) -> dict[str, Any]:
    """Return the state of one rank in which the epoch goes on that all ranks have begun together.

    Positions of items go on behind the highest that any rank has used, so that none comes twice.

    Args:
        states: of all ranks, saved behind the same batch.
        dataset: deals what is left anew.
        mine: returns the fingerprint of the loader that goes on at an epoch and a step.
        rank: whose state is wanted.

    Raises:
        ValueError: states of other settings, of different epochs, not of all ranks, with a fraction per class, or saved
            over something else than a plain ``DataLoader``.
    """
    all_progress = [from_state(state) for state in states]
    ranks = int(states[0]["settings"]["ranks"])
    told = sorted(int(state["rank"]) for state in states)
    if told != list(range(ranks)):
        raise ValueError(f"states must be one of each of the {ranks} ranks that saved them, got those of ranks {told}")
    for state, progress in zip(states, all_progress, strict=True):
        settings = mine(progress.epoch, progress.step)
        check_fingerprint(state, {name: value for name, value in settings.items() if name not in _FREE})
    if len({progress.epoch for progress in all_progress}) > 1:
        raise ValueError("states must be of one epoch")
    if any(progress.classes.tallies for progress in all_progress):
        raise ValueError(
            "with a synthetic_fraction per class an epoch goes on only with the number of workers and ranks that began "
            "it: go on with those, or give one fraction for all classes"
        )
    first = all_progress[0]

    def spread(most: int) -> int:
        """Return what ``most`` items of each old rank are for each new one, rounded up."""
        return math.ceil(Fraction(most * ranks, rank.count))

    step = spread(max(progress.step for progress in all_progress))
    synthetic = spread(max(progress.tally.synthetic for progress in all_progress))
    counts = zip(*(progress.cursor.seen for progress in all_progress), strict=False)
    return {
        **states[0],
        "rank": rank.index,
        "settings": mine(first.epoch, step),
        "step": step,
        "real": spread(max(progress.real for progress in all_progress)),
        # The exact target stays as far behind the count as it was.
        "target": str(synthetic - (first.tally.synthetic - first.tally.target)),
        "synthetic": synthetic,
        "seen": [sum(column) // rank.count for column in counts],
        "position": _left(states, dataset, ranks),
        "rows": 0,
    }


def _left(states: Sequence[Mapping[str, Any]], dataset: Any, ranks: int) -> Any:
    """Return the position of a stream that goes on behind what all ranks have delivered."""
    found = []
    for state in states:
        position = state["position"]
        if position is None:
            continue
        if "left" in position:
            found += position["left"]
            continue
        streams.check_position(position)
        for worker, text in enumerate(position["states"]):
            inner = codec.decode(json.loads(text))
            if state["rows"] and worker == position["turn"]:
                share = Share(worker, max(position["workers"], 1))
                inner = dataset.after(inner, state["rows"], rank=Share(int(state["rank"]), ranks), worker=share)
            found.append(inner)
    return {"left": codec.encode(found, where="the data set's state")} if found else None
