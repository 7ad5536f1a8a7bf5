"""The demo's pictures: what the arms are made of, and how well they did."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#7a7a7a", "#0072b2", "#d55e00")  # told apart by colour-blind readers too: Okabe and Ito, 2008
_DPI = 150
_GAP = 2  # pixels between images


def require_matplotlib() -> None:
    """Raise ``ModuleNotFoundError`` with what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the demo's plots need matplotlib, which is not installed: pip install 'torchaug_gen[demo]'"
        ) from error


def save_preview(path: Path, bands: Mapping[str, Tensor], classes: Sequence[str], *, title: str) -> None:
    """Save labelled bands of images, with a column for each class.

    Args:
        path: the PNG to write.
        bands: for each label its images, ``(rows, len(classes), C, H, W)`` floating in [0, 1].
        classes: names above the columns.
        title: a line above all.
    """
    rows, columns, _, height, width = next(iter(bands.values())).shape
    cell, gap, left, right, top, bottom = 0.78, 0.12, 1.45, 0.15, 0.72, 0.1  # inches
    band = rows * cell * height / width
    size = (left + columns * cell + right, top + len(bands) * (band + gap) - gap + bottom)
    figure = _figure(size)
    axes = figure.subplots(len(bands), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=left / size[0],
        right=1 - right / size[0],
        bottom=bottom / size[1],
        top=1 - top / size[1],
        hspace=gap / band,
    )
    for colour, ax, (label, images) in zip(_COLOURS, axes, bands.items(), strict=False):
        ax.imshow(_tile(images).numpy(), interpolation="nearest", aspect="auto")
        ax.set_yticks([])
        ax.set_xticks([])
        ax.set_ylabel(
            label, rotation=0, ha="right", va="center", labelpad=10, fontsize=11, fontweight="bold", color=colour
        )
        for spine in ax.spines.values():
            spine.set_visible(False)
    axes[0].xaxis.tick_top()
    middles = [(column + 0.5) * (width + _GAP) - _GAP / 2 for column in range(columns)]
    axes[0].set_xticks(middles, labels=[name if len(name) <= 11 else f"{name[:10]}…" for name in classes])
    axes[0].tick_params(length=0, labelsize=10)
    figure.suptitle(title, x=right / size[0], y=1 - bottom / size[1], ha="left", va="top", fontsize=11)
    figure.savefig(path, dpi=_DPI)


def save_accuracy(path: Path, arms: Mapping[str, Sequence[float]], *, title: str, captions: Sequence[str]) -> None:
    """Save a plot of each arm's accuracies: a point for each seed, joined across arms, and a line for the mean.

    Args:
        path: the PNG to write.
        arms: for each label its accuracies in [0, 1], in the order of the seeds.
        title: a line above.
        captions: lines below.
    """
    lines = [line for caption in captions for line in textwrap.wrap(caption, 100, subsequent_indent="    ")]
    figure = _figure((7.2, 4.6 + 0.2 * len(lines)))
    ax: Axes = figure.add_subplot()
    values = [[100 * value for value in accuracies] for accuracies in arms.values()]
    for pair in zip(*values, strict=True):
        ax.plot(range(len(pair)), pair, color="#bbbbbb", linewidth=1, zorder=1)
    for x, (colour, points) in enumerate(zip(_COLOURS, values, strict=False)):
        ax.hlines(mean(points), x - 0.22, x + 0.22, color=colour, linewidth=3, zorder=2)
        ax.scatter([x] * len(points), points, color=colour, edgecolor="white", s=55, zorder=3)
        text = ax.annotate(f"{mean(points):.1f} %", (x + 0.26, mean(points)), va="center", color=colour, weight="bold")
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    ax.set_xticks(range(len(values)), labels=[label.replace(" + ", "\n+ ") for label in arms])
    ax.set_xlim(-0.5, len(values) - 0.3)
    ax.margins(y=0.15)
    ax.set_ylabel("test accuracy (%)")
    ax.grid(axis="y", color="#e6e6e6")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, loc="left", fontsize=11)
    figure.text(0.02, 0.02, "\n".join(lines), fontsize=8.5, va="bottom")
    figure.subplots_adjust(left=0.1, right=0.98, top=0.92, bottom=(0.85 + 0.19 * len(lines)) / figure.get_figheight())
    figure.savefig(path, dpi=_DPI)


def _figure(size: tuple[float, float]) -> "Figure":
    # A figure of its own, not pyplot's: no window, and no state that others share.
    from matplotlib.figure import Figure

    return Figure(figsize=size)


def _tile(images: Tensor) -> Tensor:
    """Return ``(rows, columns, C, H, W)`` images as one ``(H', W', 3)`` picture on white."""
    if images.shape[2] != 3:
        images = images[:, :, :1].expand(-1, -1, 3, -1, -1)
    rows, columns, _, height, width = images.shape
    picture = torch.ones(rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            picture[top : top + height, left : left + width] = images[row, column].permute(1, 2, 0)
    return picture
