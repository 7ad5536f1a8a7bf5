"""Synthesizer: a trained model that draws images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.labels import check_labels, class_indices
from torchaug_gen.synthesis import range_checks
from torchaug_gen.synthesis.drawing import to_device

if TYPE_CHECKING:
    from torchaug_gen.synthesis.external.loading import LoadOptions
    from torchaug_gen.synthesis.network import NetworkSynthesizer

ImageShape = tuple[int, int, int]


class Synthesizer(ABC):
    """A source of synthetic images whose every image is a function of (seed, epoch, position, label).

    Make one from a network with :meth:`from_module`, from a file with :meth:`load`, or by training
    (:func:`torchaug_gen.train_vae`). To write your own, subclass it and implement :meth:`draw`.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        num_classes: how many classes can be asked for, or ``None`` for a synthesizer without labels.

    Attributes:
        classes: the names of the classes in the order of their labels, where they are known.
    """

    def __init__(self, image_shape: Sequence[int], *, num_classes: int | None = None) -> None:
        self.image_shape = _check_shape(image_shape)
        self.num_classes = None if num_classes is None else whole("num_classes", num_classes)
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None for no labels, got {num_classes}")
        self.classes: tuple[str, ...] | None = None

    @abstractmethod
    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return the images of these positions.

        Args:
            labels: ``(N,)`` int64 on :attr:`label_device`, or ``None`` where the synthesizer has no classes.
            seed: the caller's seed.
            epoch: the caller's epoch.
            positions: ``(N,)`` int64 on the CPU.

        Returns:
            ``(N, C, H, W)`` floating in [0, 1] or uint8, on :attr:`device`.
        """

    @property
    def device(self) -> torch.device:
        """Where images are drawn."""
        return torch.device("cpu")

    @property
    def label_device(self) -> torch.device:
        """Where :meth:`draw` is given labels."""
        return self.device

    def to(self, device: torch.device | str) -> Self:
        """Move the synthesizer to a device and return it."""
        if torch.device(device).type != self.device.type:
            raise ValueError(f"{type(self).__name__} draws on {self.device} only, got {device}")
        return self

    def save(self, path: str | Path) -> None:
        """Write the synthesizer as a run folder; see :meth:`load`."""
        raise TypeError(f"{type(self).__name__} has nothing to save: construct it again instead")

    def sample(
        self,
        n: int | None = None,
        *,
        labels: Tensor | Sequence[int] | None = None,
        seed: int = 0,
        epoch: int = 0,
        positions: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw images.

        The image at a position is the same whatever else is drawn with it, and in every process; of a network that
        draws noise of its own, such as StyleGAN's, only where it is drawn with the same others. Where PyTorch's own
        products depend in their last bits on a row's place among the others, as MKL's do on some processors for layers
        of fewer than 16 outputs, so does the image. PyTorch's global
        generators are neither read nor moved.

        Args:
            n: how many; may be left out where ``labels`` or ``positions`` tell.
            labels: ``(N,)`` class indices. Left out, a synthesizer with classes draws them uniformly.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³²; other images each epoch.
            positions: ``(N,)`` integers ≥ 0; ``range(n)`` when left out.

        Returns:
            Images ``(N, C, H, W)``, floating in [0, 1] or uint8, and labels ``(N,)`` int64, both on :attr:`device`;
            the labels are ``None`` for a synthesizer without classes.

        Raises:
            ValueError: counts that disagree, labels outside 0..num_classes-1 or for a synthesizer without
                classes, and images that come out NaN, out of range or of another shape, named with their position.
        """
        positions, asked = _resolve(n, labels, positions)
        if self.num_classes is None:
            if asked is not None:
                raise ValueError(
                    "this synthesizer has no classes, so it cannot draw the labels asked for: "
                    "make it with num_classes=..., or leave labels out"
                )
        elif asked is None:
            asked = rng.integers(seed, "synthesizer.labels", epoch, positions, high=self.num_classes)
        else:
            check_labels(asked, self.num_classes)
        if asked is not None:
            asked = to_device(asked, self.label_device)
        if len(positions):
            drawn = self.draw(asked, seed=seed, epoch=epoch, positions=positions)
            images = check_images(drawn, (len(positions), *self.image_shape), positions)
        else:
            images = torch.empty(0, *self.image_shape, device=self.device)
        return images, None if asked is None else to_device(asked, self.device)

    def vary(
        self,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        *,
        strength: float,
        mode: str = "perturb",
        residual: bool = True,
        partners: Tensor | None = None,
        seed: int = 0,
        epoch: int = 0,
        positions: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Return new views of real images: encode each, move its code within its class, and decode.

        The residual x - D(z) that decoding loses is added back to D(z') by default, which keeps the detail of the real
        image where the code's move does not touch it. The view at a position does not depend on the other rows.

        Args:
            images: ``(N, C, H, W)``, uint8 or floating in [0, 1], of :attr:`image_shape`.
            labels: ``(N,)`` class indices, where the synthesizer has classes; the views are of the same classes.
            strength: how far, in [0, 1]. 0 moves nothing; 1 perturbs a code into a fresh draw of its surroundings, or
                interpolates with the full weights.
            mode: ``"perturb"`` steps from a code towards a draw from the Gaussian of the class's prior that it most
                probably comes from. ``"interpolate"`` goes towards the code of another image by ``strength`` times a
                weight in [-0.3, 1.3] that is never within 0.1 of 0.
            residual: add the residual.
            partners: ``(N, C, H, W)``, what to interpolate each image with, of its class; left out, each is
                interpolated with a draw from the prior of its class.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³²; other views each epoch.
            positions: ``(N,)`` integers ≥ 0; ``range(N)`` when left out.

        Returns:
            ``(N, C, H, W)`` float32 in [0, 1] on :attr:`device`.

        Raises:
            TypeError: a synthesizer that cannot encode; images neither floating nor uint8.
            ValueError: images of another shape, size or range, labels that are missing, unknown or too many, a
                strength outside [0, 1], another mode.
        """
        raise TypeError(
            f"{type(self).__name__} cannot encode images, so it cannot vary them; a VaeSynthesizer can, which "
            "train_vae returns and Synthesizer.load gives for its run folders"
        )

    @staticmethod
    def from_module(
        net: nn.Module,
        *,
        latent_dim: int | Sequence[int],
        image_shape: Sequence[int],
        num_classes: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        chunk: int = 32,
    ) -> NetworkSynthesizer:
        """Wrap the network half of anybody's trained GAN or VAE.

        It is run as it is, in its own precision and memory format, on the GPU too, so that its images are the ones that
        it draws elsewhere; :meth:`NetworkSynthesizer.accelerate` trades their last bits or more for speed.

        Args:
            net: called as ``net(z)``, or ``net(z, y)`` when ``num_classes`` is given, with ``z`` of shape
                ``(chunk, latent_dim)`` standard normal, in the dtype of its first floating parameter or, where it has
                one, its attribute ``latent_dtype``, and ``y`` of
                shape ``(chunk,)`` int64; returns images ``(chunk, C, H, W)``, alone, as the first tensor of a tuple
                or list, or as ``"images"`` or ``"sample"`` of a dictionary. It is put into evaluation mode and stays
                on its device. A network that is called otherwise, such as with one-hot labels, needs a module around
                it.
            latent_dim: width of ``z``, or its shape where a row is no vector: ``(100, 1, 1)`` for a DCGAN that begins
                with a transposed convolution. The numbers are the same either way.
            image_shape: ``(C, H, W)``.
            num_classes: number of classes that ``y`` counts, or ``None``.
            value_range: the values the network gives for black and white; mapped to [0, 1].
            chunk: the network always runs on this many rows, padded where fewer are wanted, so that an image
                does not depend on how many are drawn with it (convolutions differ in the last bits between
                batch sizes).

        Raises:
            TypeError: ``net`` is not a module.
            ValueError: a size below 1, or an empty ``value_range``.
        """
        from torchaug_gen.synthesis.network import NetworkSynthesizer

        return NetworkSynthesizer(
            net,
            latent_dim=latent_dim,
            image_shape=image_shape,
            num_classes=num_classes,
            value_range=value_range,
            chunk=chunk,
        )

    @staticmethod
    def load(
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        trust: bool = False,
        sha256: str | Mapping[str, str] | None = None,
        **options: Unpack[LoadOptions],
    ) -> NetworkSynthesizer:
        """Load a synthesizer that :meth:`save` or training wrote, or a generator out of anybody's file.

        ========================= ===== ==========================================================================
        path                      trust what is read
        ========================= ===== ==========================================================================
        run folder                  no  safetensors and JSON; of a foreign network a ``.pt2``, with trust
        ``.safetensors``            no  weights, for ``net`` or for a network of this package that the JSON names
        ``.pth`` ``.tar`` …         no  a state dict for ``net``, read without unpickling
        ``.onnx``                   no  a network that onnxruntime runs on the CPU; extra ``onnx``
        folder of diffusers         no  DDPM, DDIM and DiT pipelines, ``AutoencoderKL``; extra ``diffusers``
        ``.pt2``                   yes  a ``torch.export`` program
        ``.pt`` ``.ts``            yes  TorchScript
        ========================= ===== ==========================================================================

        Networks are run in the precision of their weights, those of diffusers in float32, on the GPU too;
        ``load(...).accelerate(autocast=torch.bfloat16, channels_last=True)`` draws faster and not the same bits, see
        :meth:`NetworkSynthesizer.accelerate`.

        What is inside an archive of PyTorch, not its ending, decides what it is. The same seed and position give the
        same latent in every format, and so the same image up to rounding. A JSON object in a file of the same name
        (``faces.json`` beside ``faces.onnx``) may hold the options below; the call has the last word.

        Args:
            path: the file or folder.
            device: where to draw.
            trust: allow what can execute code when it is loaded: ``.pt2`` and TorchScript. Pickles of anything but
                tensors are refused all the same.
            sha256: the expected SHA-256 in hexadecimal of the file with the network; or of every file that is read,
                by its path within the folder. It is compared before anything is parsed.
            **options: what the file does not say itself. ``latent_dim``, ``image_shape``, ``num_classes``,
                ``value_range`` and ``chunk`` as in :meth:`from_module`, the last also for a run folder, and where a
                file asks for one that takes much memory; ``classes``, their names; ``net``, the module that weights
                belong to, which takes them; ``key``, where in a checkpoint they are; for a pipeline
                ``steps`` (50, or as many as it was trained on where those are fewer) and ``guidance`` (1, none).

        Raises:
            FileNotFoundError: no such file or folder.
            ValueError: a file that is missing, altered, damaged, too large or not what it says; one that needs
                ``trust``; options that are missing, or that the file contradicts.
            TypeError: an unknown option.
            ModuleNotFoundError: the extra that a format needs is not installed.
        """
        from torchaug_gen.synthesis.external.loading import load_any

        return load_any(Path(path), device=torch.device(device), trust=trust, sha256=sha256, options=options)


def check_images(images: Tensor, shape: tuple[int, int, int, int], positions: Tensor) -> Tensor:
    """Return ``images`` clamped to [0, 1], or raise where that would hide more than rounding.

    On CUDA, within :class:`RangeChecks`, values are looked at later.

    Args:
        images: what a synthesizer drew.
        shape: ``(N, C, H, W)`` that was expected.
        positions: ``(N,)``, to name an offender by.

    Raises:
        ValueError: another shape, NaN, or values outside [0, 1] by more than half an 8-bit level.
        TypeError: neither floating nor uint8.
    """
    if tuple(images.shape) != shape:
        raise ValueError(f"the synthesizer must return images of shape {shape}, got {tuple(images.shape)}")
    if images.dtype is torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"the synthesizer must return uint8 or floating images, got {images.dtype}")
    checks = range_checks.running()
    if images.is_cuda and checks is not None:
        checks.add(images, positions)
    else:
        range_checks.raise_outside(range_checks.spans(images).cpu(), positions)
    return images.clamp(0, 1)


def whole(name: str, value: object) -> int:
    """Return ``value`` as an integer, or raise ``TypeError`` where it is none."""
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _check_shape(image_shape: Sequence[int]) -> ImageShape:
    shape = tuple(whole("each size of image_shape", size) for size in image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"image_shape must be (channels, height, width), each at least 1, got {tuple(image_shape)}")
    return shape


def _resolve(
    n: int | None, labels: Tensor | Sequence[int] | None, positions: Tensor | Sequence[int] | None
) -> tuple[Tensor, Tensor | None]:
    """Return ``positions`` and ``labels`` as tensors that agree with ``n``."""
    if labels is not None:
        # copy: what is delivered must not change with the caller's tensor, nor this with it.
        labels = class_indices(labels).to(torch.int64, copy=True)
    if positions is not None:
        given = torch.as_tensor(positions)
        if given.numel() and (given.is_floating_point() or given.is_complex()):
            raise ValueError(f"positions must be integers, got {given.dtype}")
        positions = given.to(torch.int64).reshape(-1).cpu()
    counts = {
        name: count
        for name, count in (
            ("n", None if n is None else whole("n", n)),
            ("labels", None if labels is None else len(labels)),
            ("positions", None if positions is None else len(positions)),
        )
        if count is not None
    }
    if not counts:
        raise ValueError("say how many images to draw: n, labels or positions")
    if len(set(counts.values())) > 1:
        raise ValueError(f"n, labels and positions must agree in length, got {counts}")
    count = next(iter(counts.values()))
    if count < 0:
        raise ValueError(f"n must be at least 0, got {count}")
    return torch.arange(count) if positions is None else positions, labels
