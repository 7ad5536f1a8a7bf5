"""The augmentation of an experiment: what is usual for such images."""

from typing import Any


def augmentation(image_shape: tuple[int, int, int]) -> list[Any]:
    """Return transforms for images of a shape ``(C, H, W)``.

    Grey images get small turns, shifts, scalings and shears, which no digit minds; colour images random crops,
    mirroring, and jitter of brightness, contrast and saturation.
    """
    import kornia.augmentation as K

    channels, height, width = image_shape
    if channels == 1:
        return [K.RandomAffine(degrees=10.0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5.0, p=1.0)]
    return [
        K.RandomResizedCrop((height, width), scale=(0.6, 1.0), ratio=(0.85, 1.18)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.2, 0.2, 0.2),
    ]
