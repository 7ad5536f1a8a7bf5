"""Findings: what the figures of an evaluation mean, in plain words, with the number that decided."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

from torchaug_gen.evaluation.artefacts import Artefacts
from torchaug_gen.evaluation.classification_score import ClassificationScore
from torchaug_gen.evaluation.coverage import Coverage
from torchaug_gen.evaluation.curves import Curves
from torchaug_gen.evaluation.distance_result import Distances
from torchaug_gen.evaluation.memorisation import Memorisation, wilson

GOOD, CAUTION, BAD, UNKNOWN = "good", "caution", "bad", "unknown"
LEVELS = (BAD, CAUTION, UNKNOWN, GOOD)

# Shares relative to what other real images of the same number reach, which is what honest images could: from 0.8 on
# they pass, below half they fail. Between, and where so few images were measured that the interval reaches
# below half, it takes eyes.
_PASS, _FAIL = 0.8, 0.5
# Of fewer images the neighbourhoods of five cover nearly everything, whatever is drawn.
_FEWEST = 20
_VARIETY = {
    "coverage": "{:.0%} of real images have a synthetic one close by; with other real images in their place {:.0%} do",
    "recall": "{:.0%} of real images lie within the spread of synthetic ones; of other real images {:.0%} do",
}
# A kernel distance surely so many times as large as other real images could have by chance is no small matter.
_FAR = 5.0
# An artefact of twice the size that is named at all is seen by anybody.
_PLAIN = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: what was looked at.
        level: ``"good"``, ``"caution"``, ``"bad"``, or ``"unknown"`` where it was not measured.
        sentence: what was found, with its numbers, or why nothing was measured.
        value: the number that decided, or ``None``.
        limit: what it was held against, or ``None``.
    """

    name: str
    level: str
    sentence: str
    value: float | None = None
    limit: float | None = None


def judge(
    *,
    distances: Distances | None,
    baseline: Distances | None,
    artefacts: Artefacts | None,
    memorisation: Mapping[str, Memorisation],
    curves: Curves | None,
    usefulness: ClassificationScore | None,
    unmeasured: Mapping[str, str],
) -> tuple[Finding, ...]:
    """Return what the figures mean, in the order a reader asks.

    Args:
        distances: of synthetic images from real ones.
        baseline: of other real images from the same ones, by the same numbers.
        artefacts: of the synthetic images.
        memorisation: by feature space.
        curves: of the training.
        usefulness: what classifiers learn from synthetic images; nothing is said where it was not asked for.
        unmeasured: for ``"distances"``, ``"artefacts"``, ``"memorisation"``, ``"usefulness"`` and ``"history"`` why
            they are missing.
    """
    found = [*_distance_findings(distances, baseline, unmeasured.get("distances", "they were not measured"))]
    found.append(_artefact_finding(artefacts, unmeasured.get("artefacts", "they were not looked for")))
    found.append(_copy_finding(memorisation, unmeasured.get("memorisation", "they were not looked for")))
    if usefulness is not None or "usefulness" in unmeasured:
        found.append(_usefulness_finding(usefulness, unmeasured.get("usefulness", "")))
    found.append(_training_finding(curves, unmeasured.get("history", "the run has no history.jsonl")))
    return tuple(found)


def headline(findings: tuple[Finding, ...]) -> Finding:
    """Return one finding for all of them."""
    levels = [finding.level for finding in findings]
    names = {level: [finding.name.lower() for finding in findings if finding.level == level] for level in LEVELS}
    if names[BAD]:
        return Finding("Overall", BAD, f"Serious flaws: {_and(names[BAD])}")
    if names[CAUTION]:
        return Finding("Overall", CAUTION, f"Look before you train on it: {_and(names[CAUTION])}")
    if UNKNOWN in levels:
        return Finding("Overall", CAUTION, f"Nothing bad found, but not measured: {_and(names[UNKNOWN])}")
    return Finding("Overall", GOOD, "Nothing bad found")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _distance_findings(distances: Distances | None, baseline: Distances | None, why: str) -> list[Finding]:
    if distances is None or baseline is None:
        return [Finding(name, UNKNOWN, f"Not measured: {why}.") for name in ("Realism", "Variety")]
    here, there, n = distances.coverage, baseline.coverage, _images(distances, baseline)
    if here is None or there is None or n < _FEWEST:
        few = f"there were too few images ({n} a side; it takes {_FEWEST})"
        return [Finding(name, UNKNOWN, f"Not measured: {few}.") for name in ("Realism", "Variety")]
    share, reached, words = _variety(here, there)
    found = [
        _relative(
            "Realism",
            here.precision,
            there.precision,
            n,
            "{:.0%} of synthetic images lie near a real image; of other real images {:.0%} do",
            against=_far(distances, baseline),
        ),
        _relative("Variety", share, reached, n, words),
    ]
    return [*found, *_class_findings(distances, baseline)]


def _images(distances: Distances, baseline: Distances) -> int:
    """Return how many images there are at least on each side that is compared."""
    return min(distances.real, distances.synthetic, baseline.real, baseline.synthetic)


def _variety(here: Coverage, there: Coverage) -> tuple[float, float, str]:
    """Return recall or coverage, whichever is the smaller relative to what real images reach, theirs, and its words.

    Averages of many images lie within wide neighbourhoods, which is coverage; but no real image lies within theirs.
    """
    both = [(getattr(here, name), getattr(there, name), words) for name, words in _VARIETY.items()]
    return min(both, key=lambda each: each[0] / each[1] if each[1] else math.inf)


def _far(distances: Distances, baseline: Distances) -> str:
    """Return what the kernel distance says against realism, if anything.

    Real images that are unlike all others make much room around themselves, in which blurred ones find place too:
    Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (ICML 2020).
    """
    here, there = distances.kid, baseline.kid
    if here is None or there is None or here.interval[0] <= _FAR * max(there.interval[1], 0.0):
        return ""
    figures = f"KID-{distances.space} is {here.value:.2g}, that of other real images {there.value:.2g}"
    return f" But as a whole they are far from real: {figures}."


def _relative(name: str, share: float, real: float, n: int, words: str, *, against: str = "") -> Finding:
    if real == 0:
        return Finding(name, UNKNOWN, "Not measured: real images are not near each other either.")
    low, high = wilson(round(share * n), n)
    level = CAUTION
    if high < _FAIL * real:
        level = BAD
    elif share >= _PASS * real and low >= _FAIL * real and not against:
        level = GOOD
    return Finding(name, level, f"{words.format(share, real)} (n={n}).{against}", share / real, _PASS)


def _class_findings(distances: Distances, baseline: Distances) -> list[Finding]:
    classes = len(distances.per_class)
    if classes < 2:
        return []
    ratios, poor = {}, []
    for name, its in distances.per_class.items():
        real = baseline.per_class.get(name)
        if real is None or its.coverage is None or real.coverage is None:
            continue
        n, (share, reached, _) = _images(its, real), _variety(its.coverage, real.coverage)
        if n < _FEWEST or not reached:
            continue
        ratios[name] = share / reached
        if wilson(round(share * n), n)[1] < _FAIL * reached:
            poor.append(name)
    if not ratios:
        return [Finding("Classes", UNKNOWN, f"Not measured: no class has {_FEWEST} images on each side.")]
    worst = min(ratios, key=lambda name: ratios[name])
    tail = f"the least is {worst!r} at {ratios[worst]:.0%} of the variety that real images reach"
    enough = "" if len(ratios) == classes else f" with at least {_FEWEST} images"
    judged = f"of the {len(ratios)} classes{enough}"
    counted = f"{len(poor)} {judged} lack much of their variety" if poor else f"None {judged} is left behind"
    level = GOOD if not poor else BAD if 2 * len(poor) > len(ratios) else CAUTION
    if not poor and 2 * len(ratios) < classes:
        level = UNKNOWN
    return [Finding("Classes", level, f"{counted}; {tail}.", ratios[worst], _FAIL)]


def _artefact_finding(artefacts: Artefacts | None, why: str) -> Finding:
    if artefacts is None:
        return Finding("Artefacts", UNKNOWN, f"Not measured: {why}.")
    found = [measure for measure in artefacts.measures.values() if measure.found]
    # How many times its limit each is surely beyond.
    sizes = {m.name: min(map(abs, m.interval)) / m.limit for m in found}
    if not found:
        return Finding("Artefacts", GOOD, f"None of {len(artefacts.measures)} measures found one.", 0.0, 0.0)
    # The worst in full: whole sentences about all of them would bury it.
    worst, *others = sorted(found, key=lambda m: -sizes[m.name])
    also = f" Also: {_and([measure.name for measure in others])}." if others else ""
    words = f"{worst.verdict[0].upper()}{worst.verdict[1:]}.{also}"
    level = BAD if max(sizes.values()) >= _PLAIN else CAUTION
    return Finding("Artefacts", level, words, max(sizes.values()), _PLAIN)


def _copy_finding(memorisation: Mapping[str, Memorisation], why: str) -> Finding:
    if not memorisation:
        return Finding("Copies", UNKNOWN, f"Not measured: {why}.")
    # A space that found copies speaks for all; where none did, that with most.
    result = max(memorisation.values(), key=lambda one: (one.singled_out, one.copies, one.share))
    low, high = result.interval
    score = f"; C_T {result.c_t:+.1f} in {result.space!r}" if result.copies and result.c_t is not None else ""
    sentence = (
        f"{result.share:.1%} of synthetic images are nearer to a training image than {1 - result.expected[0]:.0%} of "
        f"held-out images are (95 % interval {low:.1%} to {high:.1%}; by chance up to {result.expected[1]:.1%}{score})."
    )
    if result.copies and not result.singled_out:
        sentence = (
            f"Synthetic images keep nearer to training images than held-out ones do (C_T {result.c_t:+.1f} in "
            f"{result.space!r}). Copies do so, and blurred averages too: look at the pairs."
        )
        return Finding("Copies", CAUTION, sentence, result.share, result.expected[1])
    if result.copies:
        return Finding("Copies", BAD, f"Training images are copied: {sentence}", result.share, result.expected[1])
    return Finding("Copies", GOOD, f"No sign of copied training images: {sentence}", result.share, result.expected[1])


def _usefulness_finding(found: ClassificationScore | None, why: str) -> Finding:
    """Judge what is learned from synthetic images beyond guessing, relative to what is learned from real ones."""
    if found is None:
        return Finding("Usefulness", UNKNOWN, f"Not measured: {why}.")
    score, real = (mean(side) - found.chance for side in (found.synthetic, found.real))
    if wilson(round(mean(found.real) * found.tested), found.tested)[0] <= found.chance:
        return Finding("Usefulness", UNKNOWN, f"Real images teach too little to compare with: {_begun_low(found)}.")
    low, high = wilson(round(mean(found.synthetic) * found.tested), found.tested)
    level = CAUTION
    if high - found.chance < _FAIL * real:
        level = BAD
    elif score >= _PASS * real and low - found.chance >= _FAIL * real:
        level = GOOD
    return Finding("Usefulness", level, f"{found.sentence}.", score / real, _PASS)


def _begun_low(found: ClassificationScore) -> str:
    return f"{found.sentence[0].lower()}{found.sentence[1:]}"


def _training_finding(curves: Curves | None, why: str) -> Finding:
    if curves is None:
        return Finding("Training", UNKNOWN, f"Not known: {why}.")
    took = "" if curves.seconds is None else f" in {duration(curves.seconds)}"
    broken = [name for name, value in curves.last.items() if value is None]
    if broken:
        return Finding("Training", BAD, f"The loss {broken[0]!r} was not finite at the end of {curves.steps:,} steps.")
    if back := len(curves.rollbacks):
        times = "once" if back == 1 else f"{back} times"
        sentence = f"{curves.steps:,} steps{took}, going back {times}: {curves.rollbacks[-1][1]}."
        return Finding("Training", CAUTION, sentence, float(back), 0.0)
    return Finding("Training", GOOD, f"{curves.steps:,} steps{took}, without having to go back.", 0.0, 0.0)


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it, such as ``"3 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
