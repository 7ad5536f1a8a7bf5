"""DemoResult: what the demo found, in numbers and in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torchaug_gen.evaluation.classifier import Accuracy
from torchaug_gen.evaluation.usefulness import Verdict

REAL, AUGMENTED, SYNTHETIC = "real", "real + augmentation", "real + augmentation + synthetic"


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        out: the folder it wrote.
        setting: what was trained on what, in a sentence.
        notes: what differs from what was asked for, in sentences.
        accuracies: for each arm one :class:`Accuracy` per seed.
        augmentation: the verdict on augmentation: the second arm against the first.
        synthetic: the verdict on the synthetic images: the third arm against the second.
        seconds: how long each part took, and ``"total"``.
    """

    out: Path
    setting: str
    notes: tuple[str, ...]
    accuracies: dict[str, list[Accuracy]]
    augmentation: Verdict
    synthetic: Verdict
    seconds: dict[str, float]

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds["total"]), 60)
        lines = [self.setting, *self.notes, "", f"{'':35}{'test accuracy':>15}{'mean of classes':>18}"]
        for letter, (name, scores) in zip("abc", self.accuracies.items(), strict=True):
            micro, macro = spread([s.micro for s in scores]), spread([s.macro for s in scores])
            lines.append(f"({letter}) {name:31}{micro:>15}{macro:>18}")
        written = "preview.png, accuracy.png, results.json, run/"
        lines += ["", *self.sentences, "", f"Took {minutes} min {seconds} s. Written to {self.out}: {written}"]
        return "\n".join(lines)

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words, and what they do not cover."""
        return [
            f"(b) against (a): {self.augmentation.sentence('augmentation')}",
            f"(c) against (b): {self.synthetic.sentence('adding synthetic images')}",
            "The intervals cover chance in training, not another choice of images or another synthesizer.",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them; accuracies are shares in [0, 1]."""
        return {
            "setting": self.setting,
            "notes": list(self.notes),
            "arms": {
                name: {
                    "micro": [s.micro for s in scores],
                    "macro": [s.macro for s in scores],
                    "micro_mean": mean(s.micro for s in scores),
                    "macro_mean": mean(s.macro for s in scores),
                }
                for name, scores in self.accuracies.items()
            },
            "verdicts": {
                name: {"outcome": found.outcome, "difference": found.difference, "interval": found.interval}
                for name, found in (("augmentation", self.augmentation), ("synthetic", self.synthetic))
            },
            "sentences": self.sentences,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


def spread(values: Sequence[float]) -> str:
    """Return shares as a mean and standard deviation in percent, or the one value there is."""
    if len(values) == 1:
        return f"{100 * values[0]:.1f} %"
    return f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f} %"
