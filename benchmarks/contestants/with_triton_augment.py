"""triton-augment (Apache-2.0), CUDA only, on its own recipe: no resized crop, no hue, no erasing, floats only."""

from typing import Any

import torch

from benchmarks.contestants.base import MEAN, STD, Batches, Contestant, Unsupported, tensors


class TritonAugment(Contestant):
    """Affine, crop, flip, brightness, contrast, saturation, grayscale and normalisation in its one kernel."""

    note = "its own recipe: rotation and scale for the crop, no hue, no erasing, rotation and jitter always on"

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        if device == "cpu":
            raise Unsupported("runs on CUDA only")
        if recipe != "R1":
            raise Unsupported("only its own recipe, the nearest to R1")
        import triton_augment
        from torchvision.transforms import InterpolationMode

        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        self._images = tensors(batches.images, device)
        self._transform = triton_augment.TritonFusedAugment(
            crop_size=224,
            horizontal_flip_p=0.5,
            degrees=15,
            scale=(1.0, 1.6),
            interpolation=InterpolationMode.BILINEAR,
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            grayscale_p=0.2,
            mean=MEAN,
            std=STD,
        )

    def batch(self, index: int) -> Any:
        """Convert to the output's floats first, which is the least memory traffic that it allows."""
        images = self._images[index % len(self._images)]
        return self._transform(images.to(self.dtype) / 255)
