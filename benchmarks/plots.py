"""Plots of result files, from nothing but the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, schema
from benchmarks.common import figure, percent

_COLUMNS = 2
# What is drawn in colour; the others are grey.
_OURS = ("ours", "wrapped", "torchaug_gen")


def plot(path: Path) -> Path | None:
    """Draw the timed cases of a result file beside it, and its fitted lines where it has some.

    Args:
        path: of the JSON file.

    Returns:
        The PNG file, or None where the file has nothing to draw.

    Raises:
        ValueError: the file is malformed.
    """
    document = common.load(path)
    if "models" in document["results"]:
        from benchmarks import synthesis

        return synthesis.plot(path)
    timed = list(schema.cases(document))
    curves = document["results"].get("curves", {})
    if not timed and not curves:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = len(timed) + len(curves)
    columns = min(_COLUMNS, panels)
    lines = -(-panels // columns)
    bars = max((len(case["summary"]) for _, case in timed), default=8)
    height = 1.2 + 0.24 * max(bars, 8)
    drawing, axes = plt.subplots(lines, columns, figsize=(7.5 * columns, height * lines), squeeze=False)
    flat = axes.flatten()
    for axis, (name, case) in zip(flat, timed, strict=False):
        draw_case(axis, name, case, unit=case.get("unit", document["unit"]))
    for axis, (name, curve) in zip(flat[len(timed) :], curves.items(), strict=False):
        draw_curve(axis, name, curve)
    for axis in flat[panels:]:
        axis.set_visible(False)
    machine = document["machine"]
    drawing.suptitle(f"{document['question']} · {machine['gpu'] or machine['processor']}", fontsize=11)
    drawing.tight_layout(rect=(0, 0, 1, 0.99))
    target = path.with_suffix(".png")
    drawing.savefig(target, dpi=100)
    plt.close(drawing)
    return target


def draw_case(axis: Any, name: str, case: Mapping[str, Any], *, unit: str) -> None:
    """Draw the medians and quartiles of a case as bars, with their ratios; those that are too noisy without."""
    summary = case["summary"]
    names = list(summary)[::-1]
    rows = [summary[contestant] for contestant in names]
    medians = [row["median"] for row in rows]
    below = [row["median"] - row["quartile_low"] for row in rows]
    above = [row["quartile_high"] - row["median"] for row in rows]
    colours = ["tab:orange" if contestant.startswith(_OURS) else "tab:gray" for contestant in names]
    axis.barh(names, medians, xerr=[below, above], color=colours, error_kw={"elinewidth": 1})
    for place, row in enumerate(rows):
        said = "too noisy" if row["too_noisy"] else f"{row['ratio_to_baseline']:.3g}×"
        if "share_of_limit" in row:
            said += f", {percent(row['share_of_limit'])} of the limit"
        axis.text(row["quartile_high"], place, f"  {figure(row['median'])} ({said})", va="center", fontsize=8)
    axis.set_title(name, fontsize=10)
    if limit := case.get("limit"):
        unit += f"; the limit, {limit['what']}: {figure(limit['value'])}"
    axis.set_xlabel(unit, fontsize=8)
    axis.margins(x=0.3)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _span_a_decade(axis: Any, values: Sequence[float]) -> None:
    """Give an axis a logarithmic scale of a factor of ten at least: what is flat then looks flat."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = min(values), max(values)
    room = max(10 / (high / low), 1.5) ** 0.5
    axis.set_yscale("log")
    axis.set_ylim(low / room, high * room)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))


def draw_curve(axis: Any, name: str, curve: Mapping[str, Any]) -> None:
    """Draw how a cost grows, with the quartiles and the fitted exponent, on logarithmic axes."""
    points = curve["points"]
    x = [point["x"] for point in points]
    medians = [point["median"] for point in points]
    axis.plot(x, medians, "o-", color="tab:orange", markersize=4)
    axis.fill_between(
        x, [p["quartile_low"] for p in points], [p["quartile_high"] for p in points], color="tab:orange", alpha=0.2
    )
    if "without" in curve:
        axis.axhline(curve["without"], color="tab:gray", linestyle=":", linewidth=1)
    axis.set_xscale("log")
    _span_a_decade(axis, [*medians, *([curve["without"]] if "without" in curve else [])])
    above = " above the dotted line" if "without" in curve else ""
    said = "" if curve["exponent"] is None else f": exponent{above} {curve['exponent']:.2f}"
    axis.set_title(f"{name}{said}", fontsize=10)
    axis.set_xlabel(curve["over"], fontsize=8)
    axis.set_ylabel(curve["unit"], fontsize=8)
    axis.set_xticks(x, [f"{value:g}" if place % (len(x) // 7 + 1) == 0 else "" for place, value in enumerate(x)])
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
