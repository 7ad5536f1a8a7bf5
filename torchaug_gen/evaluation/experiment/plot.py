"""The experiment's picture, from the figures in its JSON alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchaug_gen.evaluation.experiment.arms import ARMS, QUESTION
from torchaug_gen.evaluation.usefulness import HELPED, HURT

# Told apart by colour-blind readers too: Okabe and Ito, 2008.
_COLOURS = {HELPED: "#009e73", HURT: "#d55e00"}
_GREY = "#7a7a7a"
_DPI = 130


def save_plot(found: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracies over the sizes of the training set, and what each arm gained on its baseline.

    Args:
        found: what :meth:`ExperimentResult.as_json` returns.
        path: the PNG to write.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: nothing to draw.
    """
    if not found["rows"]:
        raise ValueError("there is nothing to draw yet: no cell has been run")
    sizes = sorted({row["per_class"] for row in found["rows"]})
    rows = max(len(_compared(found, size)) for size in sizes)
    width, height = 4.6 * (len(sizes) + 1.4), max(3.6, 1.4 + 0.32 * rows)
    figure = figure_type()(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, len(sizes) + 1, squeeze=False)[0]
    _draw_levels(axes[0], found)
    for axis, size in zip(axes[1:], sizes, strict=True):
        _draw_gains(axis, _compared(found, size), f"{size} per class")
    title = f"{found['name']}: what synthetic images gain over augmentation alone"
    told = "green is above and red below beyond noise, grey is neither, after Holm's correction"
    figure.suptitle(f"{title}\n{told}", x=0.01, ha="left", fontsize=10)
    figure.savefig(Path(path), dpi=_DPI)
    return Path(path)


def _compared(found: Mapping[str, Any], size: int) -> list[Mapping[str, Any]]:
    return [each for each in found["comparisons"] if each["per_class"] == size]


def _draw_levels(axis: Any, found: Mapping[str, Any]) -> None:
    metric = found["metric"]
    for name in dict.fromkeys(row["arm"] for row in found["rows"]):
        points = sorted((row["per_class"], 100 * row[metric]) for row in found["rows"] if row["arm"] == name)
        line = "-" if ARMS[name].role == QUESTION else "--"
        axis.plot(*zip(*points, strict=True), line, marker="o", markersize=3, linewidth=1.2, label=ARMS[name].title)
    axis.set_xscale("log")
    sizes = sorted({row["per_class"] for row in found["rows"]})
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("training images per class")
    axis.set_ylabel(f"test {metric.replace('_', '-')} (%)")
    # Beside the lines, of which it would hide some.
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_gains(axis: Any, compared: list[Mapping[str, Any]], title: str) -> None:
    compared = compared[::-1]
    for place, each in enumerate(compared):
        colour = _COLOURS.get(each["outcome"], _GREY)
        # A single pair has no interval.
        if each["interval"] is not None:
            axis.plot([100 * bound for bound in each["interval"]], [place, place], color=colour, linewidth=2.5)
        axis.plot([100 * each["difference"]], [place], "o", color=colour, markersize=5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(compared)), [ARMS[each["arm"]].title for each in compared], fontsize=7)
    axis.set_xlabel("points gained (95 % bootstrap interval)", fontsize=8)
    pairs = sorted({each["pairs"] for each in compared})
    counts = " to ".join(dict.fromkeys(str(count) for count in (*pairs[:1], *pairs[-1:])))
    told = f", {counts} seed{'' if pairs == [1] else 's'}" if pairs else ""
    axis.set_title(f"{title}{told}", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def figure_type() -> Any:
    """Return matplotlib's figure, or raise ``ModuleNotFoundError`` that says how to get it."""
    try:
        # A figure of its own, not pyplot's: no window, and no state that others share.
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the experiment's plot needs matplotlib, which is not installed: pip install 'torchaug_gen[experiment]'"
        ) from error
    return Figure
