"""VaeSynthesizer: a synthesizer that can also encode images, and so vary, reconstruct and interpolate real ones."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.labels import check_labels, class_indices
from torchaug_gen.pixels import convert, outside
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.vae import prior
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vary import check_way, interpolation_weights, place_rows


class VaeSynthesizer(NetworkSynthesizer):
    """A synthesizer around a :class:`VaeNet`; what :func:`torchaug_gen.train_vae` returns.

    Args:
        net: the network.
        latent_dim: width of its code.
        image_shape: ``(C, H, W)``.
        num_classes: number of classes, or ``None``.
        value_range: the network's values for black and white, which are 0 and 1.
        chunk: rows the network runs on at a time.

    Raises:
        TypeError: another network.
    """

    net: VaeNet

    def __init__(
        self,
        net: VaeNet,
        *,
        latent_dim: int,
        image_shape: Sequence[int],
        num_classes: int | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        chunk: int = 32,
    ) -> None:
        if not isinstance(net, VaeNet):
            raise TypeError(f"net must be a VaeNet, got {type(net).__name__}")
        super().__init__(
            net,
            latent_dim=latent_dim,
            image_shape=image_shape,
            num_classes=num_classes,
            value_range=value_range,
            chunk=chunk,
        )

    def encode(self, images: Tensor, labels: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return the codes of images, the means of their posteriors.

        Args:
            images: ``(N, C, H, W)``, uint8 or floating in [0, 1], of :attr:`image_shape`.
            labels: ``(N,)`` class indices, where the synthesizer has classes.

        Returns:
            ``(N, latent_dim)`` float32 on :attr:`device`.

        Raises:
            ValueError: images of another shape, size or range, and labels that are missing, unknown or too many.
            TypeError: images neither floating nor uint8.
        """
        images, labels = self._checked(images, labels)
        return self._encode(images, labels)

    def reconstruct(self, images: Tensor, labels: Tensor | Sequence[int] | None = None) -> Tensor:
        """Return what is left of images after encoding and decoding, ``(N, C, H, W)`` float32 in [0, 1].

        Args and Raises are those of :meth:`encode`.
        """
        images, labels = self._checked(images, labels)
        return self._decode(self._encode(images, labels), labels).clamp_(0, 1)

    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        weights: Tensor | Sequence[float],
        *,
        labels: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Decode points on the line through the codes of two images, for many pairs.

        Args:
            a: ``(N, C, H, W)``, uint8 or floating in [0, 1].
            b: likewise.
            weights: ``(M,)`` finite; 0 gives the reconstruction of ``a``, 1 that of ``b``, others lie between and
                beyond.
            labels: ``(N,)`` class indices of each pair, where the synthesizer has classes.

        Returns:
            ``(N, M, C, H, W)`` float32 in [0, 1].

        Raises:
            ValueError: images of another shape, size or range, pairs that do not pair up, labels that are missing,
                unknown or too many, and weights that are no list of finite numbers.
            TypeError: images neither floating nor uint8.
        """
        a, labels = self._checked(a, labels, "a")
        b, _ = self._checked(b, labels, "b")
        steps = torch.as_tensor(weights, dtype=torch.float32, device=self.device)
        if steps.ndim != 1 or not steps.isfinite().all():
            raise ValueError(f"weights must be a list of finite numbers, got {weights!r}")
        if len(a) != len(b):
            raise ValueError(f"a and b must be as many, got {len(a)} and {len(b)}")
        start, stop = self._encode(a, labels), self._encode(b, labels)
        codes = torch.lerp(start[:, None], stop[:, None], steps[:, None]).flatten(0, 1)
        decoded = self._decode(codes, None if labels is None else labels.repeat_interleave(len(steps)))
        return decoded.clamp_(0, 1).view(len(a), len(steps), *self.image_shape)

    def codes(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the codes ``(N, latent_dim)`` that latents ``(N, latent_dim)`` stand for, drawn from the prior.

        Args:
            latents: of :meth:`latents`.
            labels: ``(N,)`` int64 on :attr:`device`, where the synthesizer has classes.
        """
        return prior.draw(self.net.prior, latents, self.net.groups(latents, labels))

    def decode(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the images ``(N, C, H, W)`` float32 in [0, 1] of codes ``(N, latent_dim)``; see :meth:`codes`."""
        return self._decode(codes, labels).clamp_(0, 1)

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
        """Return new views of real images; see :meth:`Synthesizer.vary`."""
        check_way(strength, mode)
        images, labels = self._checked(images, labels)
        places = place_rows(positions, len(images))
        codes = self._encode(images, labels)
        if mode == "perturb":
            if partners is not None:
                raise ValueError('partners are for mode="interpolate", got them with mode="perturb"')
            others = self._perturbed(codes, labels, strength, seed=seed, epoch=epoch, positions=places)
        else:
            towards = self._partners(partners, codes, labels, seed=seed, epoch=epoch, positions=places)
            weights = strength * interpolation_weights(seed, epoch, places).to(self.device)
            others = torch.lerp(codes, towards, weights[:, None])
        varied = self._decode(others, labels)
        if residual:
            varied += images - self._decode(codes, labels)
        return varied.clamp_(0, 1)

    def _perturbed(self, codes: Tensor, labels: Tensor | None, strength: float, **where: Any) -> Tensor:
        """Step from each code towards a draw from the Gaussian of its class that it most probably comes from.

        The step x ↦ μ + √(1 - s²)·(x - μ) + s·ε leaves that Gaussian as it is, however large.
        """
        mean, scale = prior.nearest(self.net.prior, codes, self.net.groups(codes, labels))
        noise = self._noise("vary.codes", **where)
        fresh = prior.transformed(scale, noise)
        kept: Tensor = math.sqrt(1 - strength**2) * (codes - mean)
        return mean + kept + strength * fresh

    def _partners(self, partners: Tensor | None, codes: Tensor, labels: Tensor | None, **where: Any) -> Tensor:
        """Return the codes to interpolate towards: those of the partners, or draws from the prior of the class."""
        if partners is None:
            return prior.draw(self.net.prior, self._noise("vary.partners", **where), self.net.groups(codes, labels))
        partners, _ = self._checked(partners, labels, "partners")
        if len(partners) != len(codes):
            raise ValueError(f"partners must be as many as images, got {len(partners)} and {len(codes)}")
        return self._encode(partners, labels)

    def _noise(self, stream: str, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        return rng.normal(seed, stream, epoch, positions, (self.net.latent_dim,)).to(self.device)

    def _encode(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self._in_chunks(lambda *rows: self.net.encode(*rows)[0], images, labels, (self.net.latent_dim,))

    def _decode(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return self._in_chunks(self.net.decode, codes, labels, self.image_shape)

    @torch.no_grad()
    def _in_chunks(
        self, function: Callable[..., Tensor], rows: Tensor, labels: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor:
        """Run on full chunks, so that a row's last bits do not depend on how many come with it."""
        self.net.eval()
        out = torch.empty(len(rows), *shape, device=self.device, dtype=torch.float32)
        for start in range(0, len(rows), self.chunk):
            part = slice(start, start + self.chunk)
            kept = len(rows[part])
            out[part] = function(self._pad(rows[part]), None if labels is None else self._pad(labels[part]))[:kept]
        return out

    def _checked(
        self, images: Tensor, labels: Tensor | Sequence[int] | None, name: str = "images"
    ) -> tuple[Tensor, Tensor | None]:
        """Return images as float32 in [0, 1] and labels, on the network's device, or raise."""
        if not isinstance(images, Tensor) or not (images.dtype is torch.uint8 or images.is_floating_point()):
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{name} must be a uint8 or floating tensor, got {kind}")
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"{name} must be (N, {expected}) for this synthesizer, got {tuple(images.shape)}")
        if span := outside(images):
            raise ValueError(f"{name} must be in [0, 1], got {span}: vary images before Normalize")
        return convert(images.detach().to(self.device), torch.float32), self._checked_labels(labels, len(images), name)

    def _checked_labels(self, labels: Tensor | Sequence[int] | None, count: int, name: str) -> Tensor | None:
        if self.num_classes is None:
            if labels is not None:
                raise ValueError("this synthesizer has no classes: leave labels out")
            return None
        if labels is None:
            raise ValueError(f"this synthesizer has {self.num_classes} classes: pass the labels of {name}")
        labels = class_indices(labels)
        if len(labels) != count:
            raise ValueError(f"{name} and labels must be as many, got {count} and {len(labels)}")
        check_labels(labels, self.num_classes)
        return labels.to(self.device, torch.int64)
