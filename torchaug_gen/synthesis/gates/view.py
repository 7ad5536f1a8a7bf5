"""View: a network that looks at images, so that what it says of one does not depend on the others."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.pixels import convert
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.drawing import to_device


class View:
    """Runs a network on images, always as many at a time.

    Args:
        net: called with ``(chunk, C, H, W)`` normalised images, and with labels ``(chunk,)`` where they are passed on;
            returns a tensor of ``chunk`` rows. A module is put into evaluation mode.
        mean: what its normalisation subtracts of images in [0, 1]: a number, or one per channel.
        std: what it then divides by.
        chunk: rows it runs on at a time; the last are padded, since convolutions differ in the last bits between batch
            sizes.

    Raises:
        TypeError: ``net`` cannot be called.
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        chunk: int = 32,
    ) -> None:
        if not callable(net) or isinstance(net, type):
            raise TypeError(f"expected a network, which is called with images, got {net!r}")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.net, self.chunk = net, chunk
        self._mean, self._std = (torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1) for value in (mean, std))
        if not (self._std > 0).all():
            raise ValueError(f"std must be above 0, got {std}")

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device, where it is a module, and return the view."""
        if isinstance(self.net, nn.Module):
            self.net.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, labels: Tensor | None = None, *, seed: int = 0, epoch: int = 0) -> Tensor:
        """Return what the network says, ``(N, ...)`` float32 for images ``(N, C, H, W)`` uint8 or in [0, 1].

        Raises:
            ValueError: another channel count than ``mean`` and ``std`` have, no images, or an answer that is not
                ``chunk`` finite rows.
        """
        for name, values in (("mean", self._mean), ("std", self._std)):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(f"{name} has {len(values)} values, but images have {images.shape[1]} channels")
        if self._mean.device != images.device:
            self._mean, self._std = (to_device(values, images.device) for values in (self._mean, self._std))
        parts = [
            self._look(convert(images[start : start + self.chunk], torch.float32), labels, start, seed, epoch)
            for start in range(0, len(images), self.chunk)
        ]
        if not parts:
            raise ValueError("a network must look at one image at least, got none")
        return torch.cat(parts)

    def _look(self, images: Tensor, labels: Tensor | None, start: int, seed: int, epoch: int) -> Tensor:
        if isinstance(self.net, nn.Module):
            self.net.eval()
        rows = (self._padded(images) - self._mean) / self._std
        arguments = (rows,) if labels is None else (rows, self._padded(labels[start : start + self.chunk]))
        # Layers that draw in evaluation mode would move the global generator.
        with torch.no_grad(), Seeded(rng.derive_seed(seed, "gates.noise", epoch)):
            answer = self.net(*arguments)
        if not isinstance(answer, Tensor) or not answer.ndim or len(answer) != self.chunk:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(f"the network must return one row for each of {self.chunk} images, got {got}")
        return answer.float()[: len(images)]

    def _padded(self, rows: Tensor) -> Tensor:
        missing = self.chunk - len(rows)
        return rows if missing == 0 else torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:])))


def check_images_given(images: Any, name: str, *, least: int = 1) -> Tensor:
    """Return images that a gate is calibrated on.

    Raises:
        TypeError: not a tensor.
        ValueError: not ``(N, C, H, W)`` with N of at least ``least``, or not uint8 or floating in [0, 1].
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} images must be a tensor (N, C, H, W), got {type(images).__name__}")
    if images.ndim != 4 or len(images) < least:
        raise ValueError(f"{name} images must be (N, C, H, W), N at least {least}, got {tuple(images.shape)}")
    if not (images.dtype is torch.uint8 or images.is_floating_point()):
        raise ValueError(f"{name} images must be uint8 or floating, got {images.dtype}")
    # Also where rounding is all that is wrong: raises for NaN and for normalised images.
    convert(images, torch.uint8)
    return images


def quantiles(values: Tensor, below: float, above: float) -> tuple[float, float]:
    """Return what a share ``below`` of the values lies under, and what a share ``above`` lies over.

    Raises:
        ValueError: a share outside [0, 0.5).
    """
    for share in (below, above):
        if not 0 <= share < 0.5:
            raise ValueError(f"the share of real images to turn away must be in [0, 0.5), got {share}")
    ordered = values.double().cpu().sort().values
    last = len(ordered) - 1
    return float(ordered[int(below * last)]), float(ordered[last - int(above * last)])
