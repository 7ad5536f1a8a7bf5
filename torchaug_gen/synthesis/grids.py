"""Grids of samples as PNG files."""

import io
from pathlib import Path

import torch
from torch import Tensor

from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.runs import write_atomically
from torchaug_gen.synthesis.synthesizer import Synthesizer, check_images
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer

CLASSES, COLUMNS = 10, 8


def save_samples(synthesizer: Synthesizer, path: Path, *, seed: int) -> None:
    """Write a row of eight samples for each of the first ten classes, at the same latents every time.

    Args:
        synthesizer: one without classes fills ten rows.
        path: the PNG file.
        seed: of the latents.
    """
    classes = min(synthesizer.num_classes or CLASSES, CLASSES)
    labels = None if synthesizer.num_classes is None else torch.arange(classes).repeat_interleave(COLUMNS)
    images, _ = synthesizer.sample(classes * COLUMNS, labels=labels, seed=seed)
    save_grid(images, path, columns=COLUMNS)


def row_labels(n: int, columns: int, num_classes: int | None, label: int | None = None) -> Tensor | None:
    """Return ``(n,)`` labels for a grid: ``label``, or the classes in turn, one to a row; ``None`` without classes.

    Raises:
        ValueError: a label where there are no classes, or none of theirs.
    """
    if num_classes is None:
        if label is not None:
            raise ValueError("this synthesizer has no classes to choose one of")
        return None
    if label is None:
        return torch.arange(n) // columns % num_classes
    if not 0 <= label < num_classes:
        raise ValueError(f"class must be in 0..{num_classes - 1}, got {label}")
    return torch.full((n,), label)


@torch.no_grad()
def interpolations(
    synthesizer: NetworkSynthesizer, n: int, *, columns: int, labels: Tensor | None, seed: int = 0
) -> Tensor:
    """Draw rows that go from one latent to another.

    They go along the great circle between them: along a straight line latents would get shorter than those that the
    network knows (White, "Sampling Generative Networks", 2016, section 2.1). Those of a VAE stand for codes in a
    mixture of Gaussians, where a small step of the latent may be one into another Gaussian: there the line between
    the codes is taken.

    Args:
        synthesizer: whose latents.
        n: images.
        columns: images in a row, at least 2.
        labels: ``(n,)`` int64, or ``None``.
        seed: of the latents.

    Returns:
        ``(n, C, H, W)`` floating in [0, 1] on the synthesizer's device.

    Raises:
        ValueError: fewer than two columns; images that the network gives out of range.
    """
    if columns < 2:
        raise ValueError(f"columns must be at least 2 to interpolate, got {columns}")
    rows = -(-n // columns)
    ends = synthesizer.latents(seed=seed, epoch=0, positions=torch.arange(2 * rows)).unflatten(0, (rows, 2))
    way = torch.arange(columns, device=ends.device) / (columns - 1)
    positions = torch.arange(n)
    labels = None if labels is None else labels.to(synthesizer.device)
    if isinstance(synthesizer, VaeSynthesizer):
        first, second = (end.repeat_interleave(columns, dim=0)[:n] for end in ends.unbind(1))
        line = torch.lerp(
            synthesizer.codes(first, labels), synthesizer.codes(second, labels), way.repeat(rows)[:n, None]
        )
        return synthesizer.decode(line, labels)
    circle = _great_circle(ends[:, 0].flatten(1), ends[:, 1].flatten(1), way)
    latents = circle.view(-1, *synthesizer.latent_shape)[:n]
    images = synthesizer.render(latents, labels, seed=seed, epoch=0, positions=positions)
    return check_images(images, (n, *synthesizer.image_shape), positions)


def _great_circle(start: Tensor, end: Tensor, way: Tensor) -> Tensor:
    """Return ``(rows, columns, D)`` from ``(rows, D)`` and ``(rows, D)``; lengths change linearly along the way."""
    lengths = torch.stack((start.norm(dim=1), end.norm(dim=1))).unsqueeze(2)
    start, end = (torch.nn.functional.normalize(vector, dim=1).unsqueeze(1) for vector in (start, end))
    angle = (start * end).sum(dim=2, keepdim=True).clamp(-1, 1).acos()
    way = way.view(1, -1, 1)
    # Where both point the same way, or there is one dimension, the circle degenerates into the line.
    flat = angle.sin().abs() < 1e-4
    sine = torch.where(flat, 1.0, angle.sin())
    first = torch.where(flat, 1 - way, ((1 - way) * angle).sin() / sine)
    second = torch.where(flat, way, (way * angle).sin() / sine)
    directions = first * start + second * end
    return directions * (lengths[0].unsqueeze(1) * (1 - way) + lengths[1].unsqueeze(1) * way)


def save_grid(images: Tensor, path: Path, *, columns: int) -> None:
    """Write images in rows of ``columns``.

    Args:
        images: ``(N, C, H, W)``, floating in [0, 1] or uint8; of other than 1 or 3 channels the first is shown.
        path: the PNG file; it appears whole or not at all.
        columns: images in a row.
    """
    from torchvision.utils import save_image

    images = images.detach().cpu()
    if images.dtype is torch.uint8:
        images = images.float() / 255
    if images.shape[1] not in (1, 3):
        images = images[:, :1]
    buffer = io.BytesIO()
    save_image(images.float(), buffer, format="png", nrow=columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
