"""The tables in README files, written from result files.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; everything between is replaced.
"""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, schema
from benchmarks.common import figure, percent, said, said_law, shown

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
_MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", flags=re.DOTALL)


def write(*, check: bool = False) -> list[Path]:
    """Bring the tables of all README files up to date, and return the files that were not.

    Args:
        check: change nothing.

    Raises:
        ValueError: a table that nobody knows, or a result file that is malformed.
        FileNotFoundError: a table whose results are missing.
    """
    differ = []
    for path in FILES:
        text = path.read_text()
        fresh = _MARKED.sub(_replace, text)
        if fresh != text:
            differ.append(path)
            if not check:
                path.write_text(fresh)
    return differ


def _replace(match: "re.Match[str]") -> str:
    name = match["name"]
    if name not in TABLES:
        raise ValueError(f"a table must be one of {', '.join(TABLES)}, got {name!r}")
    return f"{match[1]}\n{TABLES[name]()}\n\n{match[3]}"


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def times(row: Mapping[str, Any]) -> str:
    """Return in words how many times as fast the baseline is as this row; nothing where that is too noisy."""
    return f"{1 / row['ratio_to_baseline']:.3g} ×" if shown(row) else "too noisy"


_COLUMNS = {
    "Kornia": "Kornia",
    "torchvision v2": "torchvision, per sample",
    "Albumentations": "Albumentations",
    "DALI, CPU": "DALI",
}
_MORE = {
    "ours from float32": "ours, float32 in",
    "ours, antialiased": "ours, antialiased",
    "Kornia, compiled": "Kornia, compiled",
    "torchvision v2, antialiased": "torchvision, per sample, antialiased",
    "torchvision v2, one draw for all": "torchvision, one draw per batch",
    "fuse-augmentations": "fuse-augmentations",
}


def augment(columns: Mapping[str, str], *, described: bool, name: str = "augment-cpu") -> Callable[[], str]:
    """Return what writes a table of the fused engine: a line for each recipe, a column for each contestant.

    Args:
        columns: contestants by what they are called in the table.
        described: whether the recipes are said in words.
        name: of the result file.
    """

    def written() -> str:
        document = common.load(common.RESULTS / f"{name}.json")
        body = []
        for case_name, case in schema.cases(document):
            recipe, summary = case_name.split(",")[0], case["summary"]
            title = f"{recipe}: {_SHORT[recipe]}" if described else recipe
            cells = [_with_times(summary.get(contestant)) for contestant in columns.values()]
            body.append([title, said(summary["ours"]), *cells])
        return rows(["recipe", "ours, images/s", *columns], body)

    return written


def _with_times(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{said(row)} ({times(row)})" if shown(row) else "too noisy"


def simple(name: str, *, only: str = "") -> Callable[[], str]:
    """Return what writes a table of the cases of a result file, a line for each contestant.

    Args:
        name: of the file, without its ending.
        only: how the names of the cases begin.
    """

    def written() -> str:
        document = common.load(common.RESULTS / f"{name}.json")
        found = [(title, case) for title, case in schema.cases(document) if title.startswith(only)]
        return "\n\n".join(_of_case(title, case, unit=case.get("unit", document["unit"])) for title, case in found)

    return written


def _of_case(title: str, case: Mapping[str, Any], *, unit: str) -> str:
    """Return the table of a case; what is real of a row, its ratio and its share of the limit where there are any."""
    summary, limit, real = case["summary"], case.get("limit"), case.get("real_per_second", {})
    unit += ", less is better" if case.get("better") == "lower" else ""
    columns: dict[str, Callable[[str, Mapping[str, Any]], str]] = {unit: lambda _, row: said(row)}
    if real:
        columns["real ones"] = lambda name, row: _real(row, real.get(name, row["median"]))
    if case["baseline"] is not None:
        columns[f"against {case['baseline']}"] = lambda _, row: _ratio(row)
    if limit is not None:
        columns["of the limit"] = lambda _, row: percent(row["share_of_limit"]) if shown(row) else "–"
    columns["rounds"] = lambda _, row: str(row["rounds"])
    tried = case.get("by_workers", {})
    body = [
        [name + _workers(tried.get(name)), *(cell(name, row) for cell in columns.values())]
        for name, row in summary.items()
    ]
    if limit is not None:
        body.append([f"*limit: {limit['what']}*", figure(limit["value"]), *[""] * (len(columns) - 1)])
    return rows([title, *columns], body)


def _workers(rates: Mapping[str, float] | None) -> str:
    """Return with how many workers a contestant was fastest, and so was measured."""
    return f", workers={max(rates, key=lambda count: rates[count])}" if rates else ""


def _real(row: Mapping[str, Any], value: float) -> str:
    return figure(value) if shown(row) else "too noisy"


def shards() -> str:
    """Return the tables of streams of shards: rates, memory, and the time until a resumed one gives its first batch."""
    results = common.load(common.RESULTS / "shards-cpu.json")["results"]
    held = next(found for name, found in results["memory"].items() if name != "unit")
    body = [[name, figure(value - held["nothing"])] for name, value in held.items() if name != "nothing"]
    memory = rows(["memory of the process and two workers", "MiB beyond the imports"], body)
    body = [
        [name, *(figure(statistics.median(found[where])) for where in ("from the start", "from the middle"))]
        for name, found in results["resume"].items()
        if isinstance(found, Mapping)
    ]
    resume = rows(["seconds until the first batch of 10,000 samples", "from the start", "from the middle"], body)
    return "\n\n".join([simple("shards-cpu")(), memory, resume])


def shards_in_short() -> str:
    """Return the table of readers of photographs: a line for each, a column for each number of workers."""
    results = common.load(common.RESULTS / "shards-cpu.json")["results"]
    cases = {name.removeprefix("reading, "): case for name, case in results.items() if name.startswith("reading")}
    head = ["images/s (against webdataset)", *(name.replace("=", ": ") for name in cases)]
    names = dict.fromkeys(name for case in cases.values() for name in case["summary"])
    body = []
    for name in names:
        found = [case["summary"].get(name) for case in cases.values()]
        body.append([name, *("–" if row is None else _with_ratio(row) for row in found)])
    return rows(head, body)


def scaling() -> str:
    """Return the table of curves: between which figures, and the law that fits them."""
    curves = common.load(common.RESULTS / "scaling-cpu.json")["results"]["curves"]
    body = []
    for name, curve in curves.items():
        first, last = curve["points"][0], curve["points"][-1]
        over = f"{curve['over']}, {first['x']:g} to {last['x']:g}"
        cost = f"{figure(first['median'])} to {figure(last['median'])} {curve['unit']}"
        body.append([name, over, cost, said_law(curve)])
    return rows(["curve", "over", "cost", "how it grows"], body)


def gates() -> str:
    """Return the table of gates: the share of images of the class that was asked for, and what that costs."""
    results = common.load(common.RESULTS / "gates-cpu.json")["results"]
    body = [
        [name, percent(row["agreement"]), figure(row["cpu_ms_per_image"]) if "cpu_ms_per_image" in row else "–"]
        for name, row in results.items()
    ]
    return rows(["gate", "of the class asked for", "CPU ms an image"], body)


_MEASURES = {
    "KID": ("KID-effnet", ".3f"),
    "FD, classifier's features": ("FD-clf", ".2f"),
    "precision": ("precision-effnet", ".2f"),
    "recall": ("recall-effnet", ".2f"),
    "coverage": ("coverage-effnet", ".2f"),
    "label agreement": ("label agreement", ".1%"),
    "CPU seconds": ("cpu_seconds", ".0f"),
}


def synthesis(name: str) -> Callable[[], str]:
    """Return what writes the table of trained synthesizers: a line for each, real images first."""

    def written() -> str:
        results = common.load(common.RESULTS / f"{name}.json")["results"]
        lines = {"other real images": results["real images"]}
        lines |= {model: found["median"] for model, found in results["models"].items()}
        body = [
            [model, *(format(row[key], form) if key in row else "–" for key, form in _MEASURES.values())]
            for model, row in lines.items()
        ]
        return rows(["synthesizer", *_MEASURES], body)

    return written


def usefulness(stage: str, *, split: str | None = None) -> Callable[[], str]:
    """Return what writes the table of an experiment: accuracies of all arms by size, and what they gained.

    Accuracies are means over the seeds that all arms of a size have, so that they differ as the gains say.

    Args:
        stage: of the result file.
        split: the held-out split; ``None``: all test images.
    """

    def written() -> str:
        from torchaug_gen.evaluation.experiment.arms import ARMS

        found = common.load(common.RESULTS / "usefulness-cpu.json")["results"][stage]
        figures: dict[int, dict[str, dict[int, float]]] = {}
        for cell in found["cells"]:
            scores = cell if split is None else cell["splits"][split]
            arms = figures.setdefault(cell["per_class"], {})
            arms.setdefault(cell["arm"], {})[cell["seed"]] = scores[found["metric"]]
        compared = (found if split is None else found["splits"][split])["comparisons"]
        gains = {(each["arm"], each["per_class"]): each for each in compared}
        sizes = sorted(figures)
        seeds = {size: set.intersection(*map(set, figures[size].values())) for size in sizes}
        body = [
            [ARMS[arm].title, *(_share(figures[size].get(arm), gains.get((arm, size)), seeds[size]) for size in sizes)]
            for arm in ARMS
            if any(arm in figures[size] for size in sizes)
        ]
        body.append(["*could hide in the noise*", *(_hidden(compared, size) for size in sizes)])
        head = [f"{size} per class, {_seeds(len(seeds[size]))}" for size in sizes]
        return rows(["training data", *head], body)

    return written


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _share(values: Mapping[int, float] | None, gain: Mapping[str, Any] | None, seeds: set[int]) -> str:
    """Return a cell: the mean over some seeds, what it gained over its baseline, and whether that is beyond noise."""
    from torchaug_gen.evaluation.experiment.arms import ARMS, QUESTION

    if values is None or not seeds:
        return "–"
    said = f"{100 * statistics.mean(values[seed] for seed in seeds):.1f}"
    if gain is None:
        return said
    gained = f"{100 * gain['difference']:+.1f}".replace("-", "−")
    if gain["outcome"] in ("helped", "hurt"):
        # Only what was added can help or hurt: augmentation that is left out is just less.
        gained = f"**{gained}, {gain['outcome']}**" if ARMS[gain["arm"]].role == QUESTION else f"**{gained}**"
    return f"{said} ({gained})" if gain["pairs"] == len(seeds) else f"{said} ({gained}, {_seeds(gain['pairs'])})"


def _hidden(compared: Sequence[Mapping[str, Any]], size: int) -> str:
    """Return the largest gain or loss of synthetic images that was not found and cannot be excluded."""
    from torchaug_gen.evaluation.experiment.arms import ARMS, QUESTION

    unseen = [
        each["hidden"]
        for each in compared
        if each["per_class"] == size
        and ARMS[each["arm"]].role == QUESTION
        and each["outcome"] not in ("helped", "hurt")
        and each["hidden"] is not None
    ]
    return f"up to ±{100 * max(unseen):.1f}" if unseen else "–"


def _ratio(row: Mapping[str, Any]) -> str:
    """Return a row's ratio, with the interval that holds its median, where there were rounds enough to tell."""
    if not shown(row):
        return "too noisy"
    low, high = row.get("ratio_interval", (1, 1))
    interval = "" if low == high else f" ({low:.2f} to {high:.2f})"
    return f"{row['ratio_to_baseline']:.2f} ×{interval}"


def _with_ratio(row: Mapping[str, Any]) -> str:
    return f"{said(row)} ({row['ratio_to_baseline']:.2f} ×)" if shown(row) else "too noisy"


_SHORT = {
    "R1": "crop, flip, rotation, colour jitter, grayscale, normalize, erasing",
    "R2": "crop, flip, rotation",
    "R3": "colour jitter, grayscale, normalize (256² out)",
    "R4": "R1 with a mask and three boxes",
    "R5": "CIFAR-sized: crop, flip, normalize, erasing",
    "R6": "RandAugment, normalize (256² out)",
}
TABLES: Mapping[str, Callable[[], str]] = {
    "augment": augment(_COLUMNS, described=True),
    "augment-more": augment(_MORE, described=False),
    "imports": simple("imports-cpu"),
    "sampling": simple("sampling-cpu"),
    "loader": simple("loader-cpu"),
    "gates": gates,
    "shards": shards,
    "shards-in-short": shards_in_short,
    "scaling": scaling,
    "usefulness-clothing": usefulness("clothing"),
    "usefulness-clothing-test": usefulness("clothing", split="test"),
    "usefulness-clothing-remedies": usefulness("clothing, remedies"),
    "usefulness-clothing-further": usefulness("clothing, further real images"),
    "usefulness-clothing-validated": usefulness("clothing, validated"),
    "usefulness-fashion": usefulness("fashion"),
    "usefulness-fashion-further": usefulness("fashion, further real images"),
    "usefulness-fashion-imbalanced": usefulness("fashion, imbalanced"),
    "usefulness-fashion-synthetic-only": usefulness("fashion, synthetic only"),
    "memory": simple("memory-cpu"),
    "synthesis-photographs": synthesis("synthesis-photographs-cpu"),
    "synthesis-fashion-mnist": synthesis("synthesis-fashion-mnist-cpu"),
}
