"""How well a probe tells real images from synthetic ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.evaluation.spaces import DctFeatures
from torchaug_gen.pixels import convert

_MOST, _FEWEST = 400, 20
_STEPS, _DECAY = 100, 1e-2


def tell_apart(real: Tensor, synthetic: Tensor, *, seed: int = 0) -> float | None:
    """Return how often a linear probe tells real from synthetic on images that it was not trained on.

    A classifier two-sample test: Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests" (ICLR 2017), with
    logistic regression on features of layout and texture (DCT), which see blur and grids.

    Args:
        real: ``(N, C, H, W)`` uint8 or in [0, 1], images that the synthesizer was not trained on.
        synthetic: ``(M, C, H, W)`` likewise.
        seed: which of them are used and which the probe is trained on.

    Returns:
        The accuracy over both halves: 0.5 is a guess, 1 tells all. ``None`` with fewer than 20 of either.
    """
    count = min(len(real), len(synthetic), _MOST)
    if count < _FEWEST:
        return None
    chosen = [
        images[rng.permutation(seed, "experiment.probe", 0, len(images), position=side)[:count]]
        for side, images in enumerate((real, synthetic))
    ]
    features = DctFeatures()
    with torch.no_grad():
        rows = torch.cat([features(convert(part, torch.float32)) for images in chosen for part in images.split(64)])
    labels = torch.arange(2).repeat_interleave(count).float()
    fold = torch.arange(2 * count) % 2 == 0
    # Both folds in turn, so that every image is once a test.
    return sum(_half(rows, labels, train) for train in (fold, ~fold)) / 2


def _half(rows: Tensor, labels: Tensor, train: Tensor) -> float:
    """Return the accuracy on the rows that were not trained on."""
    mean, std = rows[train].mean(0), rows[train].std(0).clamp(min=1e-6)
    rows = (rows - mean) / std
    weights = torch.zeros(rows.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = rows[train] @ weights + bias
        loss = F.binary_cross_entropy_with_logits(logits, labels[train]) + _DECAY * weights.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        guess = rows[~train] @ weights + bias > 0
    return float((guess == labels[~train].bool()).double().mean())
