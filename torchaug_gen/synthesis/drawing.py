"""Running a network on one chunk of latents: as it is, compiled, or replayed as a CUDA graph."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import cast

import torch
from torch import Tensor, nn

from torchaug_gen.seeded import Seeded

Call = Callable[[Tensor, Tensor | None], Tensor]

# cuDNN and cuBLAS set themselves up in the first calls, which must not be captured.
_WARM_UPS = 3


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """How to run a network faster; see :meth:`NetworkSynthesizer.accelerate`.

    Raises:
        ValueError: an ``autocast`` that is no half precision.
    """

    autocast: torch.dtype | None = None
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {self.autocast}")

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a network runs."""
        if self.autocast is not None:
            return torch.autocast(device.type, self.autocast)
        # The caller's own autocast is meant for the training, and would change images.
        return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


class NoiseWatch(Seeded):
    """Give random operations a private generator, and tell whether there were any."""

    @property
    def drew(self) -> bool:
        """Whether a random operation ran."""
        return bool(self._generators)


def images_of(output: object) -> object:
    """Return what of a network's output are its images: the output, its first tensor, or its images by name."""
    if isinstance(output, Mapping):
        return next((output[name] for name in ("images", "sample") if name in output), output)
    if isinstance(output, tuple | list):
        return next((part for part in output if isinstance(part, Tensor)), output)
    return output


def quiet(call: Call, net: nn.Module, acceleration: Acceleration, z: Tensor, labels: Tensor | None) -> Call:
    """Return a faster way to call a network that draws no random numbers of its own.

    Args:
        call: calls the network.
        net: the network, in evaluation mode.
        acceleration: ``compile``, ``cuda_graph`` or both.
        z: a chunk of latents to try it on.
        labels: a chunk of labels, or ``None``.

    Raises:
        TypeError: ``torch.export`` cannot trace the network.
        ValueError: the network draws random numbers, which a trace would take from the global generator, or
            ``cuda_graph`` without a CUDA device.
    """
    if acceleration.compile:
        call = _compiled(net, z, labels)
    if acceleration.cuda_graph:
        if z.device.type != "cuda":
            raise ValueError(f"cuda_graph needs the network on a CUDA device, got {z.device}")
        call = CudaGraph(call, acceleration.precision(z.device), z, labels)
    return call


class CudaGraph:
    """A call that was recorded once and is replayed, which spares launching its kernels one by one.

    Replaying runs the very kernels that were recorded, so a network is recorded only if none of them is random.

    Args:
        call: what to record.
        precision: the context to record it in.
        z: a chunk of latents; all later ones have its shape and device.
        labels: a chunk of labels, or ``None``.

    Raises:
        ValueError: the network draws random numbers.
    """

    def __init__(self, call: Call, precision: AbstractContextManager[object], z: Tensor, labels: Tensor | None) -> None:
        self._z, self._labels = z.clone(), None if labels is None else labels.clone()
        self._lock, self._free = Lock(), torch.cuda.Event()
        stream = torch.cuda.Stream(z.device)
        stream.wait_stream(torch.cuda.current_stream(z.device))
        watch = NoiseWatch(0)
        with torch.cuda.device(z.device), torch.cuda.stream(stream), torch.no_grad(), precision, watch:
            for _ in range(_WARM_UPS):
                call(self._z, self._labels)
        if not watch.drew:
            torch.cuda.current_stream(z.device).wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads, such as that of the training, go on allocating meanwhile.
            with (
                torch.cuda.device(z.device),
                torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
                torch.no_grad(),
                precision,
                watch,
            ):
                self._images = call(self._z, self._labels)
        if watch.drew:
            raise ValueError("cuda_graph and compile need a network that draws no random numbers of its own")

    def __call__(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images of a chunk."""
        # The buffers are one: a second stream or thread waits until the images were copied out of them.
        with self._lock:
            self._free.wait()
            self._z.copy_(z)
            if self._labels is not None and labels is not None:
                self._labels.copy_(labels)
            self._graph.replay()
            images = self._images.clone()
            self._free.record()
        return images


def _compiled(net: nn.Module, z: Tensor, labels: Tensor | None) -> Call:
    """Return the network traced, so that no branch is left that could draw random numbers, and compiled."""
    from torchaug_gen.synthesis.external.exported import ExportedNet, export

    traced = ExportedNet(export(net, z, labels))
    if traced.draws_noise:
        raise ValueError("cuda_graph and compile need a network that draws no random numbers of its own")
    compiled = torch.compile(traced.network, dynamic=False)
    return lambda z, labels: cast(Tensor, images_of(compiled(z) if labels is None else compiled(z, labels)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor without making the host wait for the device."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
