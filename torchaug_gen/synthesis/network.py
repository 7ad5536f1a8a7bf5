"""NetworkSynthesizer: images from latent vectors through a network."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.synthesis.drawing import Acceleration, Call, NoiseWatch, images_of, quiet, to_device
from torchaug_gen.synthesis.synthesizer import Synthesizer, whole


class NetworkSynthesizer(Synthesizer):
    """A synthesizer around a generator or decoder network; see :meth:`Synthesizer.from_module`.

    A network whose attribute ``draws_noise`` is ``False`` is run in inference mode; any other within reach of the
    seed, which costs a little per operation.

    Attributes:
        net: the network.
        latent_dim: how many values a latent has.
        latent_shape: their shape.
        value_range: the network's values for black and white.
        chunk: rows the network runs on at a time.
        drew_noise: whether the network has been seen to draw random numbers of its own.
        truncation: what latents are multiplied by, above 0; below 1 gives more usual images and fewer kinds of them,
            above 1 the reverse.
    """

    truncation: float = 1.0

    def __init__(
        self,
        net: nn.Module,
        *,
        latent_dim: int | Sequence[int],
        image_shape: Sequence[int],
        num_classes: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        chunk: int = 32,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        sizes = latent_dim if isinstance(latent_dim, Sequence) else (latent_dim,)
        shape = tuple(whole("latent_dim", size) for size in sizes)
        if not shape or min(shape) < 1 or whole("chunk", chunk) < 1:
            raise ValueError(f"latent_dim and chunk must be at least 1, got {latent_dim} and {chunk}")
        low, high = value_range
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"value_range must be finite (black, white) with black < white, got {value_range}")
        super().__init__(image_shape, num_classes=num_classes)
        self.net = net
        self.latent_shape = shape
        self.latent_dim = math.prod(shape)
        self.value_range = (float(low), float(high))
        self.chunk = chunk
        self.drew_noise = False
        self._acceleration = Acceleration()
        self._fast: Call | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network's first parameter or buffer."""
        tensor = next(chain(self.net.parameters(), self.net.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def _dtype(self) -> torch.dtype:
        """What the network takes latents in: what it says itself, or the type of its first floating parameter."""
        if (said := getattr(self.net, "latent_dtype", None)) is not None:
            return cast(torch.dtype, said)
        floating = (parameter.dtype for parameter in self.net.parameters() if parameter.is_floating_point())
        return next(floating, torch.float32)

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return the synthesizer."""
        self.net.to(device)
        self._fast = None
        return self

    def accelerate(
        self,
        *,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        cuda_graph: bool = False,
    ) -> Self:
        """Draw faster, and return the synthesizer.

        Every image stays a function of seed, epoch, position and label, but is not to the last bit the one that is
        drawn without. Call it again after exchanging the network, and without arguments to go back.

        Args:
            autocast: run in ``torch.bfloat16`` or ``torch.float16`` where PyTorch's autocast deems it safe; images
                then differ by a few of 255 levels.
            channels_last: lay out the network's weights channels last, in place; convolutions on tensor cores, and
                most on CPUs, are faster so.
            compile: compile a trace of the network; takes a minute at the first draw, and a C++ compiler or Triton.
            cuda_graph: record the network at the first draw and replay it; pays where a chunk is so small that
                launching kernels takes longer than running them.

        Raises:
            ValueError: another ``autocast``. The first draw raises for a network that draws random numbers of its own
                with ``compile`` or ``cuda_graph``, and for ``cuda_graph`` on the CPU; and ``TypeError`` for one that
                cannot be traced.
        """
        if channels_last or self._acceleration.channels_last:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            for parameter in self.net.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=layout)
        self._acceleration = Acceleration(
            autocast=autocast, channels_last=channels_last, compile=compile, cuda_graph=cuda_graph
        )
        self._fast = None
        return self

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Run the network on the latent vectors of these positions; see :meth:`Synthesizer.draw`."""
        latents = self.latents(seed=seed, epoch=epoch, positions=positions)
        return self.render(latents, labels, seed=seed, epoch=epoch, positions=positions)

    def latents(self, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return the latents ``(N, *latent_shape)`` of these positions, standard normal times :attr:`truncation`."""
        # Drawn on the CPU, where their bits do not depend on the device that uses them.
        latents = rng.normal(seed, "synthesizer.latents", epoch, positions, self.latent_shape)
        return to_device(latents if self.truncation == 1 else latents * self.truncation, self.device)

    def render(self, latents: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return the images ``(N, C, H, W)`` of latents, float32, with black at 0 and white at 1.

        Args:
            latents: ``(N, *latent_shape)`` on :attr:`device`.
            labels: as in :meth:`draw`, like the rest, which decides the noise that a network draws itself.
            seed: see there.
            epoch: see there.
            positions: see there.
        """
        self.net.eval()
        images = torch.empty(len(positions), *self.image_shape, device=self.device, dtype=torch.float32)
        latents = latents.to(self._dtype)
        for start in range(0, len(positions), self.chunk):
            rows = slice(start, start + self.chunk)
            z, y = self._pad(latents[rows]), None if labels is None else self._pad(labels[rows])
            images[rows] = self._draw_chunk(z, y, seed, epoch, int(positions[start]))[: len(latents[rows])]
        low, high = self.value_range
        return images.sub_(low).div_(high - low)

    def zeros(self) -> tuple[Tensor, Tensor | None]:
        """Return a chunk of latents, and of labels where the synthesizer has classes, to trace the network with."""
        z = torch.zeros(self.chunk, *self.latent_shape, device=self.device, dtype=self._dtype)
        if self.num_classes is None:
            return z, None
        return z, torch.zeros(self.chunk, dtype=torch.int64, device=self.device)

    def save(self, path: str | Path) -> None:
        """Write a run folder that :meth:`Synthesizer.load` reads.

        A network that this package trained becomes safetensors and JSON. Any other is exported with ``torch.export``,
        since weights alone do not say how to run it; loading that asks for ``trust=True``.

        Raises:
            TypeError: a foreign network that ``torch.export`` cannot trace.
        """
        from torchaug_gen.synthesis.runs import save_run

        save_run(self, Path(path))

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled or recorded belongs to this process.
        return self.__dict__ | {"_fast": None}

    def _draw_chunk(self, z: Tensor, labels: Tensor | None, seed: int, epoch: int, position: int) -> Tensor:
        if self._acceleration.compile or self._acceleration.cuda_graph:
            if self._fast is None:
                self._fast = quiet(self._run, self.net, self._acceleration, z, labels)
            with torch.no_grad(), self._acceleration.precision(z.device):
                images = self._fast(z, labels)
            self._check(images)
            return images
        if getattr(self.net, "draws_noise", True):
            # Layers that draw noise of their own get it from here, not from the global generator. Inference mode would
            # make that four times as slow, because it hands composite operations over whole.
            noise = NoiseWatch(rng.derive_seed(seed, "synthesizer.noise", epoch, position))
            with torch.no_grad(), self._acceleration.precision(z.device), noise:
                images = self._run(z, labels)
            self.drew_noise |= noise.drew
            return images
        with torch.inference_mode(), self._acceleration.precision(z.device):
            return self._run(z, labels)

    def _run(self, z: Tensor, labels: Tensor | None) -> Tensor:
        try:
            output = self.net(z) if labels is None else self.net(z, labels)
        except (TypeError, RuntimeError, IndexError) as error:
            given, hint = f"z {tuple(z.shape)}", ""
            if labels is not None:
                given += f" and y {tuple(labels.shape)}"
                hint = (
                    " If it takes labels otherwise, such as one-hot, wrap it in a module whose forward(self, z, y) "
                    f"calls it with torch.nn.functional.one_hot(y, {self.num_classes}).to(z.dtype), or as it wants."
                )
            error.add_note(
                f"The network was called with {given}: check latent_dim={self.latent_shape} and "
                f"num_classes={self.num_classes} in Synthesizer.from_module.{hint}"
            )
            raise
        images = images_of(output)
        self._check(images)
        return cast(Tensor, images)

    def _pad(self, rows: Tensor) -> Tensor:
        """Repeat the last row until there are ``chunk``; the network may write into what is returned."""
        missing = self.chunk - len(rows)
        return rows.clone() if missing == 0 else torch.cat((rows, rows[-1:].expand(missing, *rows.shape[1:])))

    def _check(self, images: object) -> None:
        expected = (self.chunk, *self.image_shape)
        if not isinstance(images, Tensor) or tuple(images.shape) != expected:
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            if isinstance(images, Mapping):
                got = f"a {got} of {', '.join(map(str, images))} without images or sample: wrap it to return its images"
            raise ValueError(
                f"the network must return images of shape {expected}, got {got}; "
                "image_shape= in Synthesizer.from_module is (channels, height, width)"
            )
