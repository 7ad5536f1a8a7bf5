"""A result file of a benchmark that was never run."""

from typing import Any

from benchmarks import common, schema


def document(figures: dict[str, list[float]] | None = None, **about: Any) -> dict[str, Any]:
    """Return a result file of two contestants.

    Args:
        figures: by contestant, those of ``theirs`` and ``ours``.
        **about: what the case says besides.
    """
    figures = figures or {"theirs": [10.0, 10.5, 11.0, 11.5, 12.0], "ours": [20.0, 21.0, 22.0, 23.0, 24.0]}
    here = {"processor": "x", "cores": 2, "threads": 1, "gpu": None, "python": "3", "commit": None, "load_average": []}
    return {
        "version": schema.VERSION,
        "question": "speed",
        "unit": "images/s",
        "settings": {},
        "machine": here | {"versions": {"torch": "2", "torchaug_gen": "0"}},
        "results": {"case": common.case(figures, baseline="theirs", **about)},
    }


def curve(medians: list[float], *, rounds: int = 5) -> dict[str, Any]:
    """Return a curve over 1, 2, 4, ..., each point with quartiles a tenth above and below."""
    points = [
        {"x": 2**place, "median": median, "quartile_low": 0.9 * median, "quartile_high": 1.1 * median}
        for place, median in enumerate(medians)
    ]
    law = {"constant": 0.0, "factor": medians[0], "exponent": 1.0, "r_squared": 1.0, "flat": False}
    return {"over": "images", "unit": "CPU µs", "points": points, "fit": law, "rounds": rounds}
