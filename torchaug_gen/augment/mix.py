"""MixUp: blend pairs of images and their labels."""

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.labels import soft_labels
from torchaug_gen.seeded import Seeded


class MixUp:
    """Blend each image with another one of the batch, and their labels alike.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018), equation 1: ``x = w·x_i + (1 - w)·x_j`` and
    ``y = w·y_i + (1 - w)·y_j``, with one weight w per batch.

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha) for each batch, alpha > 0.
        weight: a fixed weight of the first image in [0, 1], instead of ``alpha``.
        num_classes: K, needed for hard labels where no synthesizer tells it.

    Raises:
        ValueError: both or neither of ``alpha`` and ``weight``, or one out of range.

    Example:
        >>> images, labels = MixUp(weight=0.5, num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> labels.shape
        torch.Size([4, 10])
    """

    def __init__(
        self, *, alpha: float | None = None, weight: float | None = None, num_classes: int | None = None
    ) -> None:
        if (alpha is None) == (weight is None):
            raise ValueError(f"give either alpha or weight, got alpha={alpha} and weight={weight}")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        self.alpha, self.weight, self.num_classes = alpha, weight, num_classes

    def __repr__(self) -> str:
        how = f"alpha={self.alpha}" if self.weight is None else f"weight={self.weight}"
        return f"MixUp({how}, num_classes={self.num_classes})"

    def __call__(
        self, images: Tensor, labels: Tensor, *, seed: int = 0, epoch: int = 0, batch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Blend a batch.

        Args:
            images: ``(N, C, H, W)`` uint8 or floating; uint8 is blended in float32 and rounded.
            labels: ``(N,)`` class indices or ``(N, K)`` probabilities.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³².
            batch: the index of the batch in the epoch; weight and pairs are functions of all three.

        Returns:
            Images as they came in dtype and shape, and labels ``(N, K)`` floating.

        Raises:
            ValueError: hard labels without ``num_classes``, or outside 0..K-1.
        """
        soft = soft_labels(labels, self.num_classes)
        weight = self.weight if self.weight is not None else self._draw(seed, epoch, batch)
        partner = rng.permutation(seed, "mixup.pairs", epoch, len(images), position=batch).to(images.device)
        real = images if images.is_floating_point() else images.float()
        blended = torch.lerp(real[partner], real, weight)
        if not images.is_floating_point():
            blended = blended.round().to(images.dtype)
        return blended, torch.lerp(soft[partner.to(soft.device)], soft, weight)

    def _draw(self, seed: int, epoch: int, batch: int) -> float:
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        with Seeded(rng.derive_seed(seed, "mixup.weight", epoch, batch)):
            return float(torch.distributions.Beta(alpha, alpha).sample())
