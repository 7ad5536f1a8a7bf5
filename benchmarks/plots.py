"""Plots of result files, from nothing but the files."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, schema
from benchmarks.common import figure, percent, said, said_law, shown

_COLUMNS = 2
_OURS = re.compile(r"\b(ours|wrapped|torchaug_gen|fused|JpegFolder|mixing|pool)\b")
_COLOUR = {True: "tab:orange", False: "tab:gray"}
_WIDTH = 95


def plot(path: Path) -> list[Path]:
    """Draw a result file beside it: its cases, its curves, or what its question draws otherwise.

    Args:
        path: of the JSON file.

    Returns:
        The PNG files; none where the file has nothing to draw.

    Raises:
        ValueError: the file is malformed.
    """
    document = common.load(path)
    if "models" in document["results"]:
        from benchmarks import synthesis

        return [synthesis.plot(path)]
    if document["question"] == "usefulness":
        from benchmarks import usefulness

        return usefulness.plot(path)
    timed = list(schema.cases(document))
    curves = document["results"].get("curves", {})
    return [_draw(document, timed, curves, path.with_suffix(".png"))] if timed or curves else []


def is_ours(contestant: str) -> bool:
    """Return whether a contestant is this package, by its name; it is drawn in colour then."""
    return bool(_OURS.search(contestant))


def _draw(
    document: Mapping[str, Any],
    timed: Sequence[tuple[str, Mapping[str, Any]]],
    curves: Mapping[str, Mapping[str, Any]],
    target: Path,
) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = len(timed) + len(curves)
    columns = min(_COLUMNS, panels)
    lines = -(-panels // columns)
    bars = max((len(case["summary"]) for _, case in timed), default=8)
    height = 1.6 + 0.24 * max(bars, 8)
    drawing, axes = plt.subplots(lines, columns, figsize=(7.5 * columns, height * lines), squeeze=False)
    flat = axes.flatten()
    for axis, (name, case) in zip(flat, timed, strict=False):
        draw_case(axis, name, case, unit=case.get("unit", document["unit"]))
    _share_scales(flat[: len(timed)], [name for name, _ in timed])
    for axis, (name, curve) in zip(flat[len(timed) :], curves.items(), strict=False):
        draw_curve(axis, name, curve)
    for axis in flat[panels:]:
        axis.set_visible(False)
    _explain_colours(drawing, {name for _, case in timed for name in case["summary"]})
    machine = document["machine"]
    drawing.suptitle(f"{document['question']} · {machine['gpu'] or machine['processor']}", fontsize=11)
    drawing.tight_layout(rect=(0, 0, 1, 0.99))
    drawing.savefig(target, dpi=100)
    plt.close(drawing)
    return target


def draw_case(axis: Any, name: str, case: Mapping[str, Any], *, unit: str) -> None:
    """Draw the medians and quartiles of a case as bars, with their ratios; what is too noisy has no bar."""
    summary = case["summary"]
    names = list(summary)[::-1]
    for place, contestant in enumerate(names):
        row = summary[contestant]
        if not shown(row):
            axis.barh(contestant, 0)
            axis.text(0, place, "  too noisy", va="center", fontsize=8)
            continue
        median = row["median"]
        spread = [[median - row["quartile_low"]], [row["quartile_high"] - median]]
        colour = _COLOUR[is_ours(contestant)]
        axis.barh(contestant, median, xerr=spread, color=colour, error_kw={"elinewidth": 1})
        axis.text(row["quartile_high"], place, f"  {_beside(row)}", va="center", fontsize=8)
    title = "\n".join([name, *textwrap.wrap(case.get("title", ""), _WIDTH)])
    axis.set_title(title, fontsize=9)
    if case.get("better") == "lower":
        unit += " (less is better)"
    if limit := case.get("limit"):
        unit += f"; the limit, {limit['what']}: {figure(limit['value'])}"
    axis.set_xlabel(unit, fontsize=8)
    # Room for what stands behind the longest bar.
    axis.margins(x=0.6)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _beside(row: Mapping[str, Any]) -> str:
    words = [f"{row['ratio_to_baseline']:.3g}×"] if "ratio_to_baseline" in row else []
    words += [f"{percent(row['share_of_limit'])} of the limit"] if "share_of_limit" in row else []
    return f"{said(row)} ({', '.join(words)})" if words else said(row)


def _explain_colours(drawing: Any, names: Iterable[str]) -> None:
    """Say once for a drawing which colour is whose, where there are both."""
    from matplotlib.patches import Patch

    if len({is_ours(name) for name in names}) == 2:
        patches = [Patch(color=_COLOUR[True], label="this package"), Patch(color=_COLOUR[False], label="others")]
        drawing.legend(handles=patches, fontsize=8, loc="upper right", ncols=2, frameon=False)


def _share_scales(axes: Sequence[Any], names: Sequence[str]) -> None:
    """Give panels of one question, which is named before the comma, one scale."""
    groups: dict[str, list[Any]] = {}
    for axis, name in zip(axes, names, strict=True):
        groups.setdefault(name.split(",")[0], []).append(axis)
    for group in groups.values():
        most = max(axis.get_xlim()[1] for axis in group)
        for axis in group:
            axis.set_xlim(0, most)


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
    """Draw how a cost grows, with its quartiles and the law that fits it, on logarithmic axes."""
    points, law = curve["points"], curve["fit"]
    x = [point["x"] for point in points]
    medians = [point["median"] for point in points]
    axis.plot(x, medians, "o", color="tab:orange", markersize=4, label="measured, and between the quartiles")
    axis.fill_between(
        x, [p["quartile_low"] for p in points], [p["quartile_high"] for p in points], color="tab:orange", alpha=0.2
    )
    fitted = [law["constant"] + law["factor"] * value ** law["exponent"] for value in x]
    axis.plot(x, fitted, "--", color="tab:blue", linewidth=1, label="fitted: constant + factor · x^exponent")
    if "without" in curve:
        axis.axhline(curve["without"], color="tab:gray", linestyle=":", linewidth=1, label="without")
    axis.set_xscale("log")
    _span_a_decade(axis, [*medians, *([curve["without"]] if "without" in curve else [])])
    axis.set_title(f"{name}: {said_law(curve)}", fontsize=9)
    axis.set_xlabel(curve["over"], fontsize=8)
    axis.set_ylabel(curve["unit"], fontsize=8)
    axis.set_xticks(x, [f"{value:g}" if place % (len(x) // 7 + 1) == 0 else "" for place, value in enumerate(x)])
    axis.minorticks_off()
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
