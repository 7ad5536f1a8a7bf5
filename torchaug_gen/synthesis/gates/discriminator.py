"""DiscriminatorGate: rejection sampling with a discriminator, calibrated on held-out images."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.synthesis.drawing import to_device
from torchaug_gen.synthesis.gates.view import View, check_images_given
from torchaug_gen.synthesis.synthesizer import Synthesizer

_FEWEST = 50
_NEWTON_STEPS = 100
# Of the paper's F: keeps it finite for the best image, whose chance is then 1 - 1e-6 before γ.
_EPSILON = 1e-6


class DiscriminatorGate:
    """Lets images through by chance, the likelier the more real a discriminator finds them.

    Discriminator rejection sampling of Azadi, Olsson, Darrell, Goodfellow and Odena (ICLR 2019). With the logit
    D(x), its largest value M over synthetic images, and a = D(x) - M, an image passes with probability σ(F),
    F = a - ln(1 - exp(a - ε)) - γ: for γ = 0 that is exp(a), the density of real images over that of synthetic ones, up
    to a factor, which would make what passes as real as what the discriminator can tell. γ > 0 turns more away.

    The paper's argument needs a discriminator whose logits are true odds; one from GAN training is seldom that. Make
    gates with :meth:`calibrated`, which fits them to held-out images.

    Args:
        discriminator: called with ``(chunk, C, H, W)`` normalised images, and with labels ``(chunk,)`` if
            ``conditional``; returns scores ``(chunk,)`` or ``(chunk, 1)``, higher for what looks real. It is put into
            evaluation mode and must be on the synthesizer's device.
        highest: M.
        gamma: γ.
        slope: what a score is multiplied by to be a logit, above 0.
        offset: what is then added.
        conditional: pass the labels on.
        mean: what the discriminator's normalisation subtracts of images in [0, 1]; the default gives it [-1, 1].
        std: what it then divides by.
        chunk: the discriminator always runs on this many rows.

    Raises:
        TypeError: ``discriminator`` is not a module.
        ValueError: a setting out of range; while drawing, scores that are not one per image and finite.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        highest: float,
        gamma: float = 0.0,
        slope: float = 1.0,
        offset: float = 0.0,
        conditional: bool = False,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        chunk: int = 32,
    ) -> None:
        if not isinstance(discriminator, nn.Module):
            raise TypeError(f"discriminator must be a torch.nn.Module, got {type(discriminator).__name__}")
        if not slope > 0 or not all(map(math.isfinite, (highest, gamma, slope, offset))):
            raise ValueError(
                f"highest, gamma, slope and offset must be finite and slope above 0, got {highest}, {gamma}, {slope} "
                f"and {offset}"
            )
        self.highest, self.gamma, self.slope, self.offset = float(highest), float(gamma), float(slope), float(offset)
        self.conditional = conditional
        self._view = View(discriminator, mean=mean, std=std, chunk=chunk)

    @classmethod
    def calibrated(
        cls,
        discriminator: nn.Module,
        synthesizer: Synthesizer,
        heldout: Tensor,
        *,
        labels: Tensor | None = None,
        percentile: float = 80.0,
        n: int | None = None,
        seed: int = 0,
        conditional: bool = False,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        chunk: int = 32,
    ) -> Self:
        """Return a gate whose logits are fitted to tell held-out real images from synthetic ones.

        The fit is Platt's ("Probabilistic Outputs for Support Vector Machines", 1999): a logistic regression on the
        score, with his smoothed targets. The images a discriminator was trained with would not do: it knows them.

        Args:
            discriminator: see :class:`DiscriminatorGate`, like all that is not named here.
            synthesizer: what the gate is for.
            heldout: ``(N, C, H, W)`` real images, uint8 or in [0, 1], that the discriminator has not seen; at least 50.
            labels: ``(N,)`` their classes, if ``conditional``; synthetic images get the same.
            percentile: γ is this percentile of F over synthetic images, in [0, 100): with 80, the best fifth passes
                with odds of one to one and better.
            n: how many synthetic images to draw; the more the better M is known. At least 1,000 by default.
            seed: of the synthetic images.
            conditional: see above.
            mean: see above.
            std: see above.
            chunk: see above.

        Raises:
            ValueError: too few images, labels that are missing, or a discriminator that finds synthetic images
                more real than real ones.
        """
        if not 0 <= percentile < 100:
            raise ValueError(f"percentile must be in [0, 100), got {percentile}")
        check_images_given(heldout, "held-out", least=_FEWEST)
        if conditional and (labels is None or len(labels) != len(heldout)):
            raise ValueError(f"a conditional discriminator needs labels=, one for each of {len(heldout)} images")
        view = View(discriminator, mean=mean, std=std, chunk=chunk)
        device = synthesizer.device
        count = max(len(heldout), 1000) if n is None else n
        if count < _FEWEST:
            raise ValueError(f"n must be at least {_FEWEST}, got {n}")
        asked = None if labels is None or synthesizer.num_classes is None else labels[torch.arange(count) % len(labels)]
        drawn, asked = synthesizer.sample(
            count, labels=asked, seed=rng.derive_seed(seed, "gates.calibration"), epoch=0, positions=range(count)
        )
        real = _scores(view, heldout.to(device), labels.to(device) if conditional and labels is not None else None)
        synthetic = _scores(view, drawn, asked if conditional else None)
        slope, offset = _platt(real.double().cpu(), synthetic.double().cpu())
        if not slope > 0:
            raise ValueError(
                "the discriminator finds synthetic images more real than held-out ones, so it cannot choose among "
                "them: check that high scores mean real, and mean= and std="
            )
        logits = slope * synthetic.double().cpu() + offset
        gate = cls(
            discriminator,
            highest=float(logits.max()),
            slope=slope,
            offset=offset,
            conditional=conditional,
            mean=mean,
            std=std,
            chunk=chunk,
        )
        gate.gamma = float(torch.quantile(gate._odds(logits), percentile / 100))
        return gate

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return which images pass; see :meth:`Gate.passes`."""
        chances = self._chances(images, labels, seed=seed, epoch=epoch)
        draws = rng.uniform(seed, "gates.discriminator", epoch, positions, dtype=torch.float64)
        return to_device(draws, images.device) < chances

    def scores(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the chance of each image to pass, ``(N,)`` float64 in [0, 1].

        Args:
            images: ``(N, C, H, W)`` uint8 or in [0, 1].
            labels: ``(N,)`` int64 beside them, if ``conditional``.
        """
        return self._chances(images, labels)

    def to(self, device: torch.device | str) -> Self:
        """Move the discriminator to a device and return the gate."""
        self._view.to(device)
        return self

    def __repr__(self) -> str:
        return (
            f"DiscriminatorGate({type(self._view.net).__name__}, highest={self.highest:.4g}, gamma={self.gamma:.4g}, "
            f"slope={self.slope:.4g}, offset={self.offset:.4g})"
        )

    def _chances(self, images: Tensor, labels: Tensor | None, *, seed: int = 0, epoch: int = 0) -> Tensor:
        scores = _scores(self._view, images, labels if self.conditional else None, seed=seed, epoch=epoch)
        return torch.sigmoid(self._odds(self.slope * scores.double() + self.offset))

    def _odds(self, logits: Tensor) -> Tensor:
        """Return F, in float64; an image better than any before it is as good as the best."""
        a = (logits - self.highest).clamp(max=0)
        return a - torch.log(-torch.expm1(a - _EPSILON)) - self.gamma


def _scores(view: View, images: Tensor, labels: Tensor | None, *, seed: int = 0, epoch: int = 0) -> Tensor:
    scores = view(images, labels, seed=seed, epoch=epoch)
    if scores.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(f"the discriminator must return one score per image, got shape {tuple(scores.shape)}")
    return scores.flatten()


def _platt(real: Tensor, synthetic: Tensor) -> tuple[float, float]:
    """Return slope and offset of the logistic regression of "is real" on the score, float64."""
    scores = torch.cat((real, synthetic))
    if not scores.isfinite().all():
        raise ValueError("the discriminator must return finite scores, got NaN or infinity")
    # Platt's targets, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), keep the slope finite where the scores are separable.
    high, low = (len(real) + 1) / (len(real) + 2), 1 / (len(synthetic) + 2)
    targets = torch.cat((torch.full_like(real, high), torch.full_like(synthetic, low)))
    # Both sides count the same, however many images they have: the odds are those of densities.
    weights = torch.cat((torch.full_like(real, 0.5 / len(real)), torch.full_like(synthetic, 0.5 / len(synthetic))))
    centre, spread = scores.mean(), scores.std().clamp(min=1e-12)
    columns = torch.stack(((scores - centre) / spread, torch.ones_like(scores)), dim=1)
    fit = torch.zeros(2, dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        odds = torch.sigmoid(columns @ fit)
        gradient = columns.T @ (weights * (odds - targets))
        curvature = (columns * (weights * odds * (1 - odds))[:, None]).T @ columns
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=torch.float64), gradient)
        # A logistic loss is flat far out, where a whole Newton step would overshoot.
        fit = fit - step * min(1.0, 2.0 / float(step.abs().max().clamp(min=1e-12)))
        if step.abs().max() < 1e-10:
            break
    slope = float(fit[0] / spread)
    return slope, float(fit[1] - fit[0] * centre / spread)
