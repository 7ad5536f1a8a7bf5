"""The page of a report: one HTML file with its pictures inside, without scripts, network or fonts of its own."""

import base64
import io
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchaug_gen.evaluation import charts
from torchaug_gen.evaluation.distance_result import Distances
from torchaug_gen.evaluation.findings import duration
from torchaug_gen.evaluation.memorisation import Memorisation

if TYPE_CHECKING:
    from torchaug_gen.evaluation.report import Report

TEMPLATE = "report.html.j2"
_COLUMNS, _WORST, _PAIRS, _CLASSES = 8, 8, 8, 24
# What losses are called in a history, for people who did not write it.
_LOSSES = {
    "nll": "negative log-likelihood (nll)",
    "kl": "divergence from the prior (kl)",
    "mse": "squared error (mse)",
    "detail": "lost detail",
}
# A page of 1000 × 1000 images would have hundreds of megabytes; fine structure is kept where it is cut out.
_THUMBNAIL, _CUT = 96, 128


def render(report: "Report") -> str:
    """Return the page; what users named is escaped.

    Raises:
        ModuleNotFoundError: Jinja is not installed.
    """
    page: str = load_template().render(
        report=report,
        version=version("torchaug_gen"),
        distances=_overall(report),
        classes=_class_rows(report),
        artefacts=_artefacts(report),
        copies={name: _pairs(report, result) for name, result in report.memorisation.items()},
        **_grids(report),
        spectra=_spectra(report),
        curves=_curves(report),
        took=None if report.curves is None or report.curves.seconds is None else duration(report.curves.seconds),
        chart_size=(charts.WIDTH, charts.HEIGHT),
    )
    return page


def load_template() -> Any:
    """Return the page without its contents, or raise ``ModuleNotFoundError`` that says how to get what it needs."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the page needs Jinja, which is not installed: pip install 'torchaug_gen[report]'"
        ) from error

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, figure=_figure)
    return environment.from_string(files("torchaug_gen.evaluation").joinpath(TEMPLATE).read_text("utf-8"))


def strip(images: Tensor, *, columns: int = _COLUMNS) -> dict[str, Any]:
    """Return images side by side as a PNG within a data URI, with its size in pixels.

    Args:
        images: ``(N, C, H, W)`` uint8, N ≥ 1; of other than 1 or 3 channels the first is shown.
        columns: images in a row.
    """
    from PIL import Image

    images = images if images.shape[1] in (1, 3) else images[:, :1]
    count, channels, height, width = images.shape
    across, rows = min(count, columns), -(-count // columns)
    gap = max(width // 32, 1)
    # White and transparent between images, so that it fits a light and a dark page.
    picture = torch.zeros(4, rows * (height + gap) - gap, across * (width + gap) - gap, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        picture[:3, top : top + height, left : left + width] = image.expand(3, -1, -1) if channels == 1 else image
        picture[3, top : top + height, left : left + width] = 255
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy(), "RGBA").save(buffer, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "width": picture.shape[2], "height": picture.shape[1], "count": count, "across": across}


def _thumbnails(images: Tensor) -> Tensor:
    """Return images at no more than ``_THUMBNAIL`` pixels a side."""
    height, width = images.shape[2:]
    scale = _THUMBNAIL / max(height, width)
    if scale >= 1:
        return images
    size = [max(round(height * scale), 1), max(round(width * scale), 1)]
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def _cut(images: Tensor) -> Tensor:
    """Return the middle of images, at their own pixels, since resizing would hide grids and blur."""
    height, width = images.shape[2:]
    top, left = max(height - _CUT, 0) // 2, max(width - _CUT, 0) // 2
    return images[:, :, top : top + _CUT, left : left + _CUT]


def _overall(report: "Report") -> list[dict[str, Any]]:
    """Return the rows of the table of distances: what, synthetic, other real images, and what it means."""
    if report.distances is None or report.baseline is None:
        return []
    sides = report.distances, report.baseline
    space = report.distances.space
    rows: list[tuple[str, list[Any], str]] = [
        (f"KID-{space}", [side.kid and side.kid.value for side in sides], "smaller is better, about 0 for real images"),
        (f"FD-{space}", [side.fd for side in sides], "smaller is better; compare at the same numbers only"),
        (f"FD-{space}-inf", [side.fd_inf for side in sides], "the same for infinitely many images"),
    ]
    for name, words in (
        ("precision", "synthetic images that are near a real one"),
        ("recall", "real images that are near a synthetic one"),
        ("density", "about 1 where synthetic images are as dense as real ones"),
        ("coverage", "real images with a synthetic one close by"),
    ):
        rows.append((name, [side.coverage and getattr(side.coverage, name) for side in sides], words))
    intervals = {f"KID-{space}": [_interval(side) for side in sides]}
    return [
        {
            "name": name,
            "words": words,
            "sides": [
                {"value": value, "interval": interval}
                for value, interval in zip(values, intervals.get(name, [None, None]), strict=True)
            ],
        }
        for name, values, words in rows
        if any(value is not None for value in values)
    ]


def _interval(side: Distances) -> str | None:
    return None if side.kid is None else f"{side.kid.interval[0]:.3g} to {side.kid.interval[1]:.3g}"


def _class_rows(report: "Report") -> list[dict[str, Any]]:
    if report.distances is None or report.baseline is None:
        return []
    rows = []
    for name, its in report.distances.per_class.items():
        real = report.baseline.per_class.get(name)
        near, there = its.coverage, None if real is None else real.coverage
        rows.append(
            {
                "name": name,
                "real": its.real,
                "synthetic": its.synthetic,
                "kid": None if its.kid is None else its.kid.value,
                "shares": [
                    (near and getattr(near, share), there and getattr(there, share))
                    for share in ("precision", "recall", "coverage")
                ],
            }
        )
    return rows


def _artefacts(report: "Report") -> dict[str, Any]:
    if report.artefacts is None:
        return {"measures": [], "real": None, "clean": []}
    # A picture for each grid that is not there would say nothing, nor would one of images that are not blank.
    clean = [m for m in report.artefacts.measures.values() if m.name.startswith(("grid", "blank")) and not m.found]
    measures = sorted(
        (m for m in report.artefacts.measures.values() if m not in clean), key=lambda measure: not measure.found
    )
    return {
        "measures": [
            {"measure": measure, "worst": strip(_cut(report.synthetic.images[list(measure.worst[:_WORST])]))}
            for measure in measures
        ],
        "real": strip(_cut(_spread(report.train.images, _WORST))),
        "clean": clean,
    }


def _pairs(report: "Report", result: Memorisation) -> dict[str, Any]:
    pairs = []
    for pair in result.pairs[:_PAIRS]:
        both = torch.stack((report.synthetic.images[pair.synthetic], report.train.images[pair.train]))
        # Where there are no more of them than by chance, a pair below the threshold is nothing to point at.
        marked = result.copies and pair.ratio < result.threshold
        pairs.append({"pair": pair, "marked": marked, "picture": strip(_thumbnails(both))})
    return {"result": result, "pairs": pairs}


def _grids(report: "Report") -> dict[str, Any]:
    """Return for each class a strip of real and one of synthetic images; without classes three rows of each."""
    real, synthetic = report.train, report.synthetic
    if real.labels is None or synthetic.labels is None:
        rows = 3 * _COLUMNS
        both = [strip(_thumbnails(_spread(side.images, rows))) for side in (real, synthetic)]
        return {"grids": [{"name": None, "real": both[0], "synthetic": both[1]}], "left_out": 0}
    grids = []
    labels = torch.cat((real.labels, synthetic.labels)).unique().tolist()
    for label in labels[:_CLASSES]:
        sides = [side.images[side.labels == label] for side in (real, synthetic) if side.labels is not None]
        shown = [strip(_thumbnails(_spread(images, _COLUMNS))) if len(images) else None for images in sides]
        name = real.classes[label] if real.classes is not None and label < len(real.classes) else str(label)
        grids.append({"name": name, "real": shown[0], "synthetic": shown[1]})
    return {"grids": grids, "left_out": len(labels) - len(grids)}


def _spread(images: Tensor, count: int) -> Tensor:
    """Return ``count`` images, evenly spread over all."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


def _spectra(report: "Report") -> charts.Chart | None:
    if report.spectra is None:
        return None
    sides: Mapping[str, Tensor] = {"real": report.spectra.real, "synthetic": report.spectra.synthetic}
    lines = {
        name: [(index / (len(values) - 1), float(value)) for index, value in enumerate(values.tolist())][1:]
        for name, values in sides.items()
    }
    return charts.line_chart("Spectra", lines, x_label="frequency / Nyquist frequency")


def _curves(report: "Report") -> list[charts.Chart]:
    if report.curves is None:
        return []
    back = [float(step) for step, _ in report.curves.rollbacks]
    drawn = [
        charts.line_chart(_LOSSES.get(name, name), {name: points}, x_label="step", marks=back)
        for name, points in report.curves.losses.items()
    ]
    return [chart for chart in drawn if chart is not None]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    # Three digits; whole numbers where three would take an exponent.
    return (f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}").replace("-", "−")
