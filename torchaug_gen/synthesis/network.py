"""NetworkSynthesizer: images from latent vectors through a network."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.synthesizer import Synthesizer


class NetworkSynthesizer(Synthesizer):
    """A synthesizer around a generator or decoder network; see :meth:`Synthesizer.from_module`."""

    def __init__(
        self,
        net: nn.Module,
        *,
        latent_dim: int,
        image_shape: Sequence[int],
        num_classes: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        chunk: int = 32,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if latent_dim < 1 or chunk < 1:
            raise ValueError(f"latent_dim and chunk must be at least 1, got {latent_dim} and {chunk}")
        low, high = value_range
        if not low < high:
            raise ValueError(f"value_range must be (black, white) with black < white, got {value_range}")
        super().__init__(image_shape, num_classes=num_classes)
        self.net = net
        self.latent_dim = latent_dim
        self.value_range = (float(low), float(high))
        self.chunk = chunk

    @property
    def device(self) -> torch.device:
        """The device of the network's first parameter or buffer."""
        tensor = next(chain(self.net.parameters(), self.net.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return the synthesizer."""
        self.net.to(device)
        return self

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Run the network on the latent vectors of these positions; see :meth:`Synthesizer.draw`."""
        self.net.eval()
        # Latents are drawn on the CPU, where their bits do not depend on the device that uses them.
        latents = rng.normal(seed, "synthesizer.latents", epoch, positions, (self.latent_dim,)).to(self.device)
        images = torch.empty(len(positions), *self.image_shape, device=self.device)
        for start in range(0, len(positions), self.chunk):
            rows = slice(start, start + self.chunk)
            # Layers that draw noise of their own get it from here, not from the global generator. Inference mode would
            # make that four times as slow, because it hands composite operations over whole.
            with (
                torch.no_grad(),
                Seeded(rng.derive_seed(seed, "synthesizer.noise", epoch, int(positions[start]))),
            ):
                chunk = self._run(self._pad(latents[rows]), None if labels is None else self._pad(labels[rows]))
                images[rows] = chunk[: len(latents[rows])]
        low, high = self.value_range
        return images.sub_(low).div_(high - low)

    def save(self, path: str | Path) -> None:
        """Write a run folder that :meth:`Synthesizer.load` reads.

        A network that this package trained becomes safetensors and JSON. Any other is exported with ``torch.export``,
        since weights alone do not say how to run it; loading that asks for ``trust=True``.

        Raises:
            TypeError: a foreign network that ``torch.export`` cannot trace.
        """
        from torchaug_gen.synthesis.runs import save_run

        save_run(self, Path(path))

    def _run(self, z: Tensor, labels: Tensor | None) -> Tensor:
        try:
            chunk: Tensor = self.net(z) if labels is None else self.net(z, labels)
        except (TypeError, RuntimeError, IndexError) as error:
            given = f"z {tuple(z.shape)}" + ("" if labels is None else f" and y {tuple(labels.shape)}")
            error.add_note(
                f"The network was called with {given}: check latent_dim={self.latent_dim} and "
                f"num_classes={self.num_classes} in Synthesizer.from_module."
            )
            raise
        self._check(chunk)
        return chunk

    def _pad(self, rows: Tensor) -> Tensor:
        """Repeat the last row until there are ``chunk``."""
        missing = self.chunk - len(rows)
        return rows if missing == 0 else torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:])))

    def _check(self, images: object) -> None:
        expected = (self.chunk, *self.image_shape)
        if not isinstance(images, Tensor) or tuple(images.shape) != expected:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"the network must return images of shape {expected}, got {got}; "
                "image_shape= in Synthesizer.from_module is (channels, height, width)"
            )
