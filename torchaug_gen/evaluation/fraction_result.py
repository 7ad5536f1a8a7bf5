"""FractionChoice: the synthetic fraction that validation allows, with its evidence."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from torchaug_gen import schedules
from torchaug_gen.mixing import as_fraction
from torchaug_gen.schedules import Schedule

# What ``schedules.recommended`` has, for fractions above its bound too.
_RISING, _FALLING = 0.1, 0.15


@dataclass(frozen=True)
class FractionTrial:
    """What one fraction did.

    Attributes:
        fraction: synthetic items / all items, before it rises and falls.
        accuracy: mean over all trainings, as a share.
        gain: mean of what it gained over no synthetic items, as a share: 0.01 is one point.
        lower: what the true gain is above with probability 1 - level, for this fraction by itself.
        p: one-sided, that the true gain is no more than the margin; after Holm's correction among the fractions.
        gains: that of each training, in their order.
    """

    fraction: float
    accuracy: float
    gain: float
    lower: float
    p: float
    gains: tuple[float, ...]


@dataclass(frozen=True)
class FractionChoice:
    """A synthetic fraction, and why.

    Attributes:
        fraction: the one to train with; 0 where none gained beyond noise. ``AugmentedLoader`` takes it, or
            :meth:`schedule`, as its ``synthetic_fraction``.
        baseline: mean accuracy without synthetic items.
        trials: what each fraction did, in the order they were asked for.
        level: how often a fraction is chosen that gains no more than the margin, at most.
        margin: the least gain that counts.
        balanced: accuracy is the mean of the classes' own, and not that of all images.
        images: training images.
        classes: number of classes.
        trainings: of each fraction.
        validation: ``"5-fold cross-validation, 2 times"`` or ``"372 validation images"``.
    """

    fraction: float
    baseline: float
    trials: tuple[FractionTrial, ...]
    level: float
    margin: float
    balanced: bool
    images: int
    classes: int
    trainings: int
    validation: str

    @property
    def chosen(self) -> FractionTrial | None:
        """The trial of the chosen fraction, or ``None`` for 0."""
        return next((trial for trial in self.trials if trial.fraction == self.fraction), None)

    def schedule(self, *, total_epochs: float, steps_per_epoch: int | None = None) -> Schedule:
        """Return the schedule that was validated, over a training's epochs: up from 0, and down to 0 at the end.

        Args:
            total_epochs: how long training takes, above 0.
            steps_per_epoch: see :func:`torchaug_gen.schedules.linear`.
        """
        return validated_schedule(self.fraction, total_epochs=total_epochs, steps_per_epoch=steps_per_epoch)

    def __str__(self) -> str:
        kind = "balanced accuracy" if self.balanced else "accuracy"
        lines = [
            f"{self.sentence}",
            f"  {self.images} images of {self.classes} classes; {self.validation}; {self.trainings} trainings a row",
            f"  {'fraction':>8}{kind:>19}{'gain':>8}{'at least':>10}{'p (Holm)':>10}",
            f"  {0:>8}{self.baseline:>19.1%}",
        ]
        lines += [
            f"  {trial.fraction:>8g}{trial.accuracy:>19.1%}{100 * trial.gain:>+8.1f}{100 * trial.lower:>+10.1f}"
            f"{trial.p:>10.3g}{'  ← chosen' if trial is self.chosen else ''}"
            for trial in self.trials
        ]
        return "\n".join(lines)

    @property
    def sentence(self) -> str:
        """The choice in words."""
        wanted = f"by more than {100 * self.margin:g} points" if self.margin else "beyond noise"
        if self.chosen is None:
            return f"Train without synthetic images: no fraction gained {wanted}."
        gain, low = 100 * self.chosen.gain, 100 * self.chosen.lower
        return (
            f"Train with a synthetic fraction of {self.fraction:g}: it gained {gain:+.1f} points, "
            f"at least {low:+.1f} with {1 - self.level:.0%} confidence."
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {"sentence": self.sentence, **asdict(self)}

    def to_json(self) -> str:
        """Return :meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False)


def validated_schedule(fraction: float, *, total_epochs: float, steps_per_epoch: int | None = None) -> Schedule:
    """Return the schedule that fractions are tried with; that of 0 is 0 throughout.

    Raises:
        ValueError: a fraction outside [0, 1), or ``total_epochs`` that is not above 0.
    """
    rising = schedules.warmup(
        float(as_fraction(fraction)), epochs=total_epochs * _RISING, steps_per_epoch=steps_per_epoch
    )
    return schedules.anneal(rising, total_epochs=total_epochs, share=_FALLING, steps_per_epoch=steps_per_epoch)
