"""MixUp and CutMix: pairs of images become one, and their labels alike.

One convention throughout: a weight is that of an image's *own* label. Image i with weight w shows the share w of itself
and 1 - w of its partner j, and its label becomes ``w·y_i + (1 - w)·y_j``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.labels import soft_labels

PER = ("batch", "pair", "sample")


class Key(NamedTuple):
    """What random numbers are keyed by."""

    seed: int
    epoch: int
    batch: int


class Parts(NamedTuple):
    """What is mixed: images, labels ``(N, K)`` and masks."""

    images: Tensor
    soft: Tensor | None
    masks: Tensor | None


class Plan(NamedTuple):
    """Which image of a batch is mixed with which one, and how much stays: ``(N,)`` int64 and ``(N,)`` float64."""

    partners: Tensor
    weights: Tensor


class Mix(ABC):
    """What mixes the images and labels of a batch; the base of :class:`MixUp`, :class:`CutMix`, :class:`MixChoice`.

    Attributes:
        num_classes: K, or ``None`` where it was not told.
    """

    num_classes: int | None

    @overload
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int = 0,
        epoch: int = 0,
        batch: int = 0,
        masks: None = None,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None,
        *,
        masks: Tensor,
        seed: int = 0,
        epoch: int = 0,
        batch: int = 0,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor]: ...

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None,
        *,
        seed: int = 0,
        epoch: int = 0,
        batch: int = 0,
        masks: Tensor | None = None,
        inplace: bool = False,
    ) -> Any:
        """Mix a batch.

        Args:
            images: ``(N, C, H, W)`` uint8 or floating; uint8 is blended in float32 and rounded.
            labels: ``(N,)`` class indices or ``(N, K)`` probabilities; may be ``None`` beside masks.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³².
            batch: the index of the batch in the epoch; what is drawn is a function of all three.
            masks: ``(N, H, W)`` or ``(N, C, H, W)``, to be mixed as the images are; only CutMix can.
            inplace: whether images and masks on the CPU may be overwritten, which saves the time that fresh memory
                takes: three quarters of it for 64 float images of 3×224². Otherwise what comes in is left alone.

        Returns:
            Images as they came in dtype and shape, labels ``(N, K)`` floating, and masks where some came. Where the
            batch is not mixed, images and masks are the very ones that came.

        Raises:
            ValueError: hard labels without ``num_classes``, or outside 0..K-1; images, labels and masks that do not
                belong together; masks in a MixUp.
        """
        self._check(images, labels, masks)
        soft = None if labels is None else soft_labels(labels, self.num_classes)
        mixed = self._mixed(Parts(images, soft, masks), Key(seed, epoch, batch), inplace)
        return mixed[:2] if masks is None else mixed

    def _check(self, images: Tensor, labels: Tensor | None, masks: Tensor | None) -> None:
        """Raise ``ValueError`` where images, labels and masks cannot be mixed."""
        if images.ndim != 4:
            raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}")
        if labels is None and masks is None:
            raise ValueError(f"{self!r} mixes labels, got None: pass (N,) class indices or (N, K) probabilities")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"labels must be {len(images)}, one for each image, got {len(labels)}")
        if masks is None:
            return
        if masks.ndim not in (3, 4) or len(masks) != len(images) or masks.shape[-2:] != images.shape[-2:]:
            n, _, h, w = images.shape
            raise ValueError(f"masks must be ({n}, {h}, {w}) or ({n}, C, {h}, {w}), got {tuple(masks.shape)}")

    @abstractmethod
    def _mixed(self, parts: Parts, key: Key, inplace: bool) -> Parts:
        """Return images, soft labels and masks mixed."""


class _Weighted(Mix):
    """What MixUp and CutMix have in common: whether, with whom and how much."""

    _stream: str

    def __init__(
        self,
        *,
        alpha: float | None = None,
        weight: float | None = None,
        per: str = "batch",
        p: float = 1.0,
        num_classes: int | None = None,
    ) -> None:
        if (alpha is None) == (weight is None):
            raise ValueError(f"give either alpha or weight, got alpha={alpha} and weight={weight}")
        if alpha is not None and not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be above 0, got {alpha}")
        if weight is not None and not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], got {weight}")
        if per not in PER:
            raise ValueError(f"per must be one of {', '.join(PER)}, got {per!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.alpha, self.weight, self.per, self.p, self.num_classes = alpha, weight, per, p, num_classes

    def __repr__(self) -> str:
        how = f"alpha={self.alpha}" if self.weight is None else f"weight={self.weight}"
        per = "" if self.per == "batch" else f", per={self.per!r}"
        p = "" if self.p == 1 else f", p={self.p}"
        return f"{type(self).__name__}({how}{per}{p}, num_classes={self.num_classes})"

    def plan(self, n: int, *, seed: int = 0, epoch: int = 0, batch: int = 0) -> Plan | None:
        """Say how a batch of ``n`` images is mixed, or ``None`` where this batch is not.

        Returns:
            Partners ``(N,)`` int64 and weights ``(N,)`` float64 in [0, 1], on the CPU.
        """
        if self.p < 1 and not float(rng.uniform(seed, f"{self._stream}.gate", epoch, batch)) < self.p:
            return None
        order = rng.permutation(seed, f"{self._stream}.pairs", epoch, n, position=batch)
        return Plan(_exchanged(order) if self.per == "pair" else order, self._weights(order, seed, epoch, batch))

    def _weights(self, order: Tensor, seed: int, epoch: int, batch: int) -> Tensor:
        n = len(order)
        if self.alpha is None:
            return torch.full((n,), float(self.weight or 0.0), dtype=torch.float64)
        draws = {"batch": 1, "pair": (n + 1) // 2, "sample": n}[self.per]
        uniforms = rng.uniform(seed, f"{self._stream}.weight", epoch, batch, (draws, 2), dtype=torch.float64)[0]
        drawn = torch.from_numpy(symmetric_beta(self.alpha, uniforms.numpy()))
        return _by_row(drawn, order, self.per)


class MixUp(_Weighted):
    """Blend each image with another one of the batch, and their labels alike.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018), equation 1: ``x = w·x_i + (1 - w)·x_j`` and
    ``y = w·y_i + (1 - w)·y_j``.

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha), alpha > 0.
        weight: a fixed weight of the own image in [0, 1], instead of ``alpha``.
        per: what has a weight of its own. ``"batch"``: all images have one, and image i is mixed with image π(i) of a
            random permutation π. ``"pair"``: the batch is split into random pairs; the two of a pair are mixed with
            each other and have one weight w, so that one shows w of i and 1 - w of j, the other w of j and 1 - w of i;
            the last image of an odd batch stays as it is. ``"sample"``: as ``"batch"``, each image with its own weight.
        p: how likely a batch is to be mixed at all, in [0, 1]; labels become probabilities in any case.
        num_classes: K, needed for hard labels where no synthesizer tells it.

    Raises:
        ValueError: both or neither of ``alpha`` and ``weight``, or an argument out of range.

    Example:
        >>> images, labels = MixUp(weight=0.5, num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> labels.shape
        torch.Size([4, 10])
    """

    _stream = "mixup"

    def _check(self, images: Tensor, labels: Tensor | None, masks: Tensor | None) -> None:
        if masks is not None:
            raise ValueError(f"{self!r} cannot blend masks: leave it out, or use CutMix, which pastes them")
        super()._check(images, labels, masks)

    def _mixed(self, parts: Parts, key: Key, inplace: bool) -> Parts:
        plan = self.plan(len(parts.images), **key._asdict())
        if plan is None:
            return parts
        return Parts(_blended(parts.images, plan, inplace), _blended_labels(parts.soft, plan), parts.masks)


class CutMix(_Weighted):
    """Paste a box of another image of the batch into each image, and blend their labels by the share of pixels.

    Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (ICCV 2019),
    equation 2: with a weight w the box has sides ``H·√(1 - w)`` and ``W·√(1 - w)``, rounded to pixels, and its centre
    is uniform over the image. What leaves the image is cut off; the label's weight is that of the pixels that remain:
    exactly 1 - (pixels of the box inside the image) / (H·W).

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha), alpha > 0; 1.0 in the paper.
        weight: a fixed weight in [0, 1], before the box is cut off, instead of ``alpha``.
        per: what has a weight and a box of its own: ``"batch"``, ``"pair"`` or ``"sample"``; see :class:`MixUp`.
        p: how likely a batch is to be mixed at all, in [0, 1]; labels become probabilities in any case.
        num_classes: K, needed for hard labels where no synthesizer tells it.

    Raises:
        ValueError: both or neither of ``alpha`` and ``weight``, or an argument out of range.

    Example:
        >>> images, labels = CutMix(alpha=1.0, num_classes=10)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> labels.sum(1)
        tensor([1., 1., 1., 1.])
    """

    _stream = "cutmix"

    def boxes(self, plan: Plan, size: tuple[int, int], *, seed: int = 0, epoch: int = 0, batch: int = 0) -> Tensor:
        """Return where each image of a plan gets a box: ``(N, 4)`` int64 top, left, bottom, right, as slices.

        Args:
            plan: what :meth:`plan` returned for the same key.
            size: (h, w) of the images.
            seed: see :meth:`plan`.
            epoch: see :meth:`plan`.
            batch: see :meth:`plan`.
        """
        n = len(plan.partners)
        draws = {"batch": 1, "pair": (n + 1) // 2, "sample": n}[self.per]
        centres = rng.uniform(seed, "cutmix.centre", epoch, batch, (draws, 2), dtype=torch.float64)[0]
        order = rng.permutation(seed, "cutmix.pairs", epoch, n, position=batch)
        extent = torch.tensor(size, dtype=torch.float64)
        sides = (extent * (1 - plan.weights).sqrt()[:, None] + 0.5).floor()
        begin = (_by_row(centres, order, self.per) * extent).floor() - (sides / 2).floor()
        return torch.cat((begin.clamp(min=0), torch.minimum(begin + sides, extent)), dim=1).long()

    def _mixed(self, parts: Parts, key: Key, inplace: bool) -> Parts:
        plan = self.plan(len(parts.images), **key._asdict())
        if plan is None:
            return parts
        height, width = parts.images.shape[-2:]
        boxes = self.boxes(plan, (height, width), **key._asdict())
        pasted = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        # An image mixed with itself shows nothing but itself; blending its label with itself says the same.
        plan = plan._replace(weights=1 - pasted.double() / max(height * width, 1))
        masks = None if parts.masks is None else _pasted(parts.masks, plan.partners, boxes, inplace)
        return Parts(_pasted(parts.images, plan.partners, boxes, inplace), _blended_labels(parts.soft, plan), masks)


class MixChoice(Mix):
    """Mix each batch by one of several ways, chosen at random.

    Args:
        choices: :class:`MixUp` and :class:`CutMix`, in any number.
        probabilities: how likely each is, one number for each, in sum 1; equal where ``None``.

    Raises:
        ValueError: no choices, choices that were told different numbers of classes, probabilities that are none.

    Example:
        >>> mix = MixChoice([MixUp(alpha=0.2, num_classes=10), CutMix(alpha=1.0, num_classes=10)])
        >>> images, labels = mix(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), seed=1, epoch=0, batch=7)
    """

    def __init__(self, choices: Sequence[Mix], probabilities: Sequence[float] | None = None) -> None:
        if not choices or not all(isinstance(choice, Mix) for choice in choices):
            raise ValueError(f"choices must be MixUp or CutMix, at least one of them, got {choices!r}")
        told = {choice.num_classes for choice in choices} - {None}
        if len(told) > 1:
            raise ValueError(f"choices must agree in num_classes, got {' and '.join(map(str, sorted(told, key=str)))}")
        shares = [1 / len(choices)] * len(choices) if probabilities is None else [float(p) for p in probabilities]
        if len(shares) != len(choices) or not all(p >= 0 for p in shares) or not math.isclose(sum(shares), 1):
            raise ValueError(f"probabilities must be {len(choices)} numbers ≥ 0 with sum 1, got {probabilities}")
        self.choices, self.probabilities = tuple(choices), tuple(shares)
        self.num_classes = next(iter(told), None)

    def __repr__(self) -> str:
        return f"MixChoice([{', '.join(map(repr, self.choices))}], {list(self.probabilities)})"

    def chosen(self, *, seed: int = 0, epoch: int = 0, batch: int = 0) -> Mix:
        """Return the choice for a batch."""
        number = float(rng.uniform(seed, "mix.choice", epoch, batch, dtype=torch.float64))
        below = np.cumsum(self.probabilities) <= number
        # The sum of the shares may fall short of 1 by rounding; the last one that can be chosen takes the rest.
        possible = max(index for index, share in enumerate(self.probabilities) if share > 0)
        return self.choices[min(int(below.sum()), possible)]

    def _check(self, images: Tensor, labels: Tensor | None, masks: Tensor | None) -> None:
        # All are asked, so that a batch does not fail or pass by chance.
        for choice in self.choices:
            choice._check(images, labels, masks)

    def _mixed(self, parts: Parts, key: Key, inplace: bool) -> Parts:
        return self.chosen(**key._asdict())._mixed(parts, key, inplace)


def symmetric_beta(alpha: float, uniforms: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Turn pairs of uniform numbers into numbers of Beta(alpha, alpha), without rejection.

    ``½ + T / (2·√(2·alpha + T²))`` is of Beta(alpha, alpha) where T is of Student's t with 2·alpha degrees of freedom,
    and ``T = √(2·alpha·(u^(-1/alpha) - 1))·cos(2πv)`` is, by Bailey's polar method (Math. Comp. 62, 1994).
    Written in ``u^(1/alpha)``, which cannot overflow.

    Args:
        alpha: > 0.
        uniforms: ``(M, 2)`` in [0, 1).

    Returns:
        ``(M,)`` float64 in [0, 1].
    """
    logarithm = np.log1p(-uniforms[:, 0]) / alpha
    cosine = np.cos(2 * math.pi * uniforms[:, 1])
    with np.errstate(divide="ignore"):
        odds = np.exp(logarithm) / -np.expm1(logarithm)
    # Where odds underflow, the weight is 0 or 1; the smallest normal number keeps 0 / 0 away.
    return 0.5 + 0.5 * cosine / np.sqrt(cosine**2 + np.maximum(odds, np.finfo(np.float64).tiny))


def _exchanged(order: Tensor) -> Tensor:
    """Return partners ``(N,)`` that pair the first of an order with the second, the third with the fourth and so on."""
    partners = torch.arange(len(order))
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    partners[pairs] = pairs.flip(1)
    return partners


def _by_row(drawn: Tensor, order: Tensor, per: str) -> Tensor:
    """Return what was drawn per batch, pair or sample by rows of the batch."""
    if per == "batch":
        return drawn.expand(len(order), *drawn.shape[1:])
    if per == "sample":
        return drawn
    rows = torch.empty(len(order), *drawn.shape[1:], dtype=drawn.dtype)
    rows[order] = drawn.repeat_interleave(2, dim=0)[: len(order)]
    return rows


def _blended_labels(soft: Tensor | None, plan: Plan) -> Tensor | None:
    if soft is None:
        return None
    weights = plan.weights[:, None].to(soft.device, soft.dtype, non_blocking=True)
    return torch.lerp(soft[plan.partners.to(soft.device, non_blocking=True)], soft, weights)


def _blended(images: Tensor, plan: Plan, inplace: bool) -> Tensor:
    if _by_rows(images):
        return _blended_rows(images, plan, images if inplace else torch.empty_like(images))
    partners = images[plan.partners.to(images.device, non_blocking=True)]
    # Half precision could tell 0.3 from 0.301 no longer: the weight would not be the label's.
    working = torch.promote_types(images.dtype, torch.float32)
    weights = plan.weights[:, None, None, None].to(images.device, working, non_blocking=True)
    blended = partners.to(working).lerp(images.to(working), weights)
    return blended.to(images.dtype) if images.is_floating_point() else blended.round_().to(images.dtype)


def _blended_rows(images: Tensor, plan: Plan, blended: Tensor) -> Tensor:
    """Blend row by row, which copies no partners; ``blended`` may be the images themselves."""
    weights = plan.weights.tolist()
    scratch = None if images.is_floating_point() else torch.empty(images.shape[1:], dtype=torch.float32)
    for row, partner in _exchanges(images, plan.partners, blended is images):
        if scratch is None:
            torch.lerp(partner, images[row], weights[row], out=blended[row])
        else:
            torch.lerp(partner.float(), images[row].float(), weights[row], out=scratch)
            blended[row] = scratch.round_()
    return blended


def _pasted(images: Tensor, partners: Tensor, boxes: Tensor, inplace: bool) -> Tensor:
    """Return images with a box ``(N, 4)`` of their partners; the last two dimensions are height and width."""
    if _by_rows(images):
        pasted, corners = images if inplace else images.clone(), boxes.tolist()
        for row, partner in _exchanges(images, partners, inplace):
            top, left, bottom, right = corners[row]
            pasted[row, ..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return pasted
    device, (height, width) = images.device, images.shape[-2:]
    top, left, bottom, right = boxes.to(device, non_blocking=True).unbind(1)
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    inside = rows[:, :, None] & columns[:, None, :]
    inside = inside if images.ndim == 3 else inside[:, None]
    return torch.where(inside, images[partners.to(device, non_blocking=True)], images)


def _by_rows(images: Tensor) -> bool:
    """Say whether images are mixed one by one: not where each would start a kernel, nor where a gradient is wanted."""
    return images.device.type == "cpu" and not images.requires_grad


def _exchanges(images: Tensor, partners: Tensor, inplace: bool) -> Iterator[tuple[int, Tensor]]:
    """Yield each row with its partner's image as it was, also where every row is overwritten once it was yielded.

    Along a cycle i, π(i), π(π(i)) … each partner is overwritten only after it was read; the first one, which the
    last of the cycle asks for, is kept in a copy.
    """
    partner, seen = partners.tolist(), set[int]()
    for first in range(len(partner)):
        if first in seen:
            continue
        kept = images[first].clone() if inplace and partner[first] != first else images[first]
        row = first
        while row not in seen:
            seen.add(row)
            yield row, kept if partner[row] == first else images[partner[row]]
            row = partner[row]
