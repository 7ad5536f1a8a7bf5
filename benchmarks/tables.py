"""The tables in README files, written from result files.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; everything between is replaced.
"""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common, schema
from benchmarks.common import figure, percent

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
    return "too noisy" if row["too_noisy"] else f"{1 / row['ratio_to_baseline']:.3g} ×"


def augment(name: str = "augment-cpu") -> str:
    """Return the table of the fused engine: a line for each recipe, a column for each library."""
    from benchmarks.contestants.base import RECIPES

    document = common.load(common.RESULTS / f"{name}.json")
    columns = {
        "Kornia": "Kornia",
        "torchvision v2": "torchvision, per sample",
        "Albumentations": "Albumentations",
        "DALI, CPU": "DALI",
    }
    body = []
    for case_name, case in schema.cases(document):
        recipe, summary = case_name.split(",")[0], case["summary"]
        line = [f"{recipe}: {_SHORT.get(recipe, RECIPES[recipe].title)}", figure(summary["ours"]["median"])]
        for contestant in columns.values():
            row = summary.get(contestant)
            line.append("does not run" if row is None else f"{figure(row['median'])} ({times(row)})")
        body.append(line)
    return rows(["recipe", "ours, images/s", *columns], body)


def simple(name: str, *, against: str) -> Callable[[], str]:
    """Return what writes a table of all cases of a result file, a line for each contestant."""

    def written() -> str:
        document = common.load(common.RESULTS / f"{name}.json")
        parts = []
        for title, case in schema.cases(document):
            head = [title, case.get("unit", document["unit"]), against.format(case["baseline"])]
            body = [[contestant, figure(row["median"]), _ratio(row)] for contestant, row in case["summary"].items()]
            if "limit" in case:
                head.append("of the limit")
                body = [[*line, percent(case["summary"][line[0]]["share_of_limit"])] for line in body]
                limit = [f"*limit: {case['limit']['what']}*", figure(case["limit"]["value"]), "", ""]
            parts.append(rows(head, [*body, limit] if "limit" in case else body))
        return "\n\n".join(parts)

    return written


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
    return "\n\n".join([simple("shards-cpu", against="against {}")(), memory, resume])


def shards_in_short() -> str:
    """Return the table of readers of photographs: a line for each, a column for each number of workers."""
    results = common.load(common.RESULTS / "shards-cpu.json")["results"]
    cases = {name.removeprefix("reading, "): case for name, case in results.items() if name.startswith("reading")}
    head = ["images/s (against webdataset)", *(name.replace("=", ": ") for name in cases)]
    names = dict.fromkeys(name for case in cases.values() for name in case["summary"])
    body = []
    for name in names:
        found = [case["summary"].get(name) for case in cases.values()]
        body.append([name, *("–" if row is None else f"{figure(row['median'])} ({_ratio(row)})" for row in found)])
    return rows(head, body)


def scaling() -> str:
    """Return the table of curves: between which figures, and the exponent of the power law."""
    curves = common.load(common.RESULTS / "scaling-cpu.json")["results"]["curves"]
    body = []
    for name, curve in curves.items():
        first, last = curve["points"][0], curve["points"][-1]
        over = f"{curve['over']}, {first['x']:g} to {last['x']:g}"
        cost = f"{figure(first['median'])} to {figure(last['median'])} {curve['unit']}"
        above = f" above {figure(curve['without'])}" if "without" in curve else ""
        body.append([name, over, cost, f"{curve['exponent']:.2f}{above}"])
    return rows(["curve", "over", "cost", "exponent"], body)


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
    """Return what writes the table of trained generators: a line for each, real images first."""

    def written() -> str:
        results = common.load(common.RESULTS / f"{name}.json")["results"]
        lines = {"other real images": results["real images"]}
        lines |= {model: found["median"] for model, found in results["models"].items()}
        body = [
            [model, *(format(row[key], form) if key in row else "–" for key, form in _MEASURES.values())]
            for model, row in lines.items()
        ]
        return rows(["generator", *_MEASURES], body)

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
    return "too noisy" if row["too_noisy"] else f"{row['ratio_to_baseline']:.2f} ×"


_SHORT = {
    "R1": "crop, flip, rotation, colour jitter, grayscale, normalize, erasing",
    "R2": "crop, flip, rotation",
    "R3": "colour jitter, grayscale, normalize",
    "R4": "R1 with a mask and three boxes",
    "R5": "CIFAR-sized: crop, flip, normalize, erasing",
    "R6": "RandAugment, normalize",
}
TABLES: Mapping[str, Callable[[], str]] = {
    "augment": augment,
    "imports": simple("imports-cpu", against="against {}"),
    "sampling": simple("sampling-cpu", against="against {}"),
    "loader": simple("loader-cpu", against="against {}"),
    "shards": shards,
    "shards-in-short": shards_in_short,
    "scaling": scaling,
    "usefulness-clothing": usefulness("clothing"),
    "usefulness-clothing-test": usefulness("clothing", split="test"),
    "usefulness-clothing-further": usefulness("clothing, further arms"),
    "usefulness-fashion": usefulness("fashion"),
    "usefulness-fashion-further": usefulness("fashion, further arms"),
    "memory": simple("memory-cpu", against="against {}"),
    "synthesis-photographs": synthesis("synthesis-photographs-cpu"),
    "synthesis-fashion-mnist": synthesis("synthesis-fashion-mnist-cpu"),
}
