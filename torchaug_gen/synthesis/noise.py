"""NoiseSynthesizer: images of uniform noise."""

from collections.abc import Sequence

from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.synthesis.synthesizer import Synthesizer


class NoiseSynthesizer(Synthesizer):
    """A synthesizer of uniform random images, for baselines and for tests.

    Args:
        image_shape: ``(C, H, W)``.
        low: the smallest value, 0 ≤ low ≤ high.
        high: the largest value, low ≤ high ≤ 1.
        num_classes: how many classes to pretend to know, or ``None``; the images do not depend on the label.

    Raises:
        ValueError: bounds outside [0, 1] or in the wrong order.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        low: float = 0.0,
        high: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        if not 0 <= low <= high <= 1:
            raise ValueError(f"low and high must satisfy 0 <= low <= high <= 1, got {low} and {high}")
        super().__init__(image_shape, num_classes=num_classes)
        self.low, self.high = float(low), float(high)

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return float32 noise in [low, high); see :meth:`Synthesizer.draw`."""
        noise = rng.uniform(seed, "synthesizer.noise_images", epoch, positions, self.image_shape)
        return noise.mul_(self.high - self.low).add_(self.low)
