"""Training a variational autoencoder into a synthesizer."""

import io
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.runs import load_run, save_run, write_atomically
from torchaug_gen.synthesis.training_data import TrainingImages, read_images, warp
from torchaug_gen.synthesis.vae import MIN_SIDE, VaeNet, divergence, negative_log_likelihood

_CLIP_NORM = 1.0
_PRIOR_VIEWS = 8
_GRID_CLASSES, _GRID_COLUMNS = 10, 8


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """How :func:`train_vae` trains. The defaults suit 28-pixel digits, 50 of each: about 95 s of one CPU core.

    Args:
        image_size: side in pixels, or ``(H, W)``, that images are resized and cropped to; ``None`` keeps theirs.
        steps: optimiser steps.
        batch_size: images per step.
        learning_rate: of AdamW after its warm-up; it falls to 0 along a half cosine.
        latent_dim: width of the code.
        width: channels at full and half resolution; time grows with its square.
        beta: weight of the divergence against the likelihood (Higgins et al., "beta-VAE", 2017). 1 is
            the bound itself; more gives codes that the prior resembles better, so that more samples are of their
            class, but blurs, and far above 10 may leave the code unused.
        free_bits: nats per dimension of the code that cost nothing (Kingma et al., "Improving Variational Inference
            with Inverse Autoregressive Flow", 2016).
        warmup_fraction: part of the steps over which the weight of the divergence grows from 0 to ``beta``
            (Sønderby et al., "Ladder Variational Autoencoders", 2016).
        augment: strength of the small random turns, scalings, shears and shifts of the training images, which help
            where there are few: 1 is up to 10 degrees, 10 % and 5 % of the side; 0 is none.
        seed: 0 ≤ seed < 2⁶⁴; on the CPU, with as many threads, the same seed gives the same weights.
        device: where to train and where the synthesizer is put.

    Raises:
        ValueError: a field out of its range, named.
    """

    image_size: int | tuple[int, int] | None = None
    steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 4e-3
    latent_dim: int = 16
    width: int = 16
    beta: float = 8.0
    free_bits: float = 0.0
    warmup_fraction: float = 0.5
    augment: float = 1.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "latent_dim", "width"):
            value = getattr(self, name)
            if type(value) is not int:
                raise ValueError(f"{name} must be an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("beta", "free_bits", "augment"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction must be in [0, 1], got {self.warmup_fraction}")
        size = self.size
        if size is not None and not (isinstance(size, tuple) and [type(side) for side in size] == [int, int]):
            raise ValueError(f"image_size must be an integer or (height, width), got {self.image_size!r}")
        if size is not None and min(size) < MIN_SIDE:
            raise ValueError(f"image_size must be at least {MIN_SIDE}, got {self.image_size}")
        rng.check_seed(self.seed)

    @property
    def size(self) -> tuple[int, int] | None:
        """``image_size`` as ``(H, W)``."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size


def train_vae(
    data: str | Path | Dataset[Any],
    config: VaeConfig = VaeConfig(),
    *,
    out: str | Path,
    progress: bool = True,
) -> NetworkSynthesizer:
    """Train a variational autoencoder and return the synthesizer that draws from it.

    The run folder ``out`` receives what :meth:`Synthesizer.load` reads, ``training.json`` with the config,
    ``history.jsonl`` with a line per step, and ``samples.png``, a row of samples for each of the first ten classes.

    Args:
        data: a folder with one subfolder of images per class, or a map-style dataset of ``(image, label)`` pairs,
            each image a PIL image or a tensor ``(C, H, W)``, uint8 or floating in [0, 1], each label an integer;
            without labels the synthesizer has no classes. Every item is read once and kept in memory as uint8.
        config: how to train.
        out: the run folder; it is made, and files of an earlier run in it are overwritten.
        progress: show a progress bar.

    Returns:
        A synthesizer on ``config.device``, the one that ``Synthesizer.load(out)`` gives.

    Raises:
        ValueError: images or labels that cannot be learned from, named with their index.
        RuntimeError: the loss became NaN or infinite; the message names the step.
    """
    out = Path(out)
    images = read_images(data, image_size=config.size, seed=config.seed)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "training.json", (json.dumps(asdict(config), indent=2) + "\n").encode())
    net = _train(images, config, out / "history.jsonl", progress)
    _fit_prior(net, images, config)
    synthesizer = NetworkSynthesizer(
        net,
        latent_dim=config.latent_dim,
        image_shape=images.image_shape,
        num_classes=images.num_classes,
        value_range=(0.0, 1.0),
    )
    synthesizer.classes = images.classes
    save_run(synthesizer, out)
    # What the caller gets is what the folder holds.
    synthesizer = load_run(out, device=torch.device(config.device))
    _save_grid(synthesizer, out / "samples.png", config.seed)
    return synthesizer


def _train(images: TrainingImages, config: VaeConfig, history: Path, progress: bool) -> VaeNet:
    """Minimise the negative evidence lower bound (Kingma and Welling 2014, eq. 10) per pixel."""
    with Seeded(rng.derive_seed(config.seed, "vae.weights")):
        net: VaeNet = VaeNet(
            image_shape=images.image_shape,
            latent_dim=config.latent_dim,
            num_classes=images.num_classes,
            width=config.width,
        )
    net = net.to(config.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99))
    pixels = math.prod(images.image_shape)
    began = time.perf_counter()
    with history.open("w") as file, tqdm(total=config.steps, disable=not progress, unit="step") as bar:
        for step in range(config.steps):
            batch, labels, positions = _batch(images, config, step)
            mean, log_variance = net.encode(batch, labels)
            noise = rng.normal(config.seed, "vae.codes", 0, positions, (config.latent_dim,)).to(config.device)
            predicted = net.decode(mean + noise * (log_variance / 2).exp(), labels)
            nll = negative_log_likelihood(predicted, batch)
            kl = divergence(mean, log_variance)
            loss = (nll + _beta(config, step) * kl.clamp(min=config.free_bits).sum()) / pixels
            losses = {"loss": loss.item(), "nll": nll.item(), "kl": kl.sum().item()}
            losses["mse"] = F.mse_loss(predicted.detach(), batch).item()
            if not math.isfinite(losses["loss"]):
                raise RuntimeError(
                    f"the loss is {losses['loss']} at step {step}: lower learning_rate={config.learning_rate}"
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), _CLIP_NORM)
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, step)
            optimizer.step()
            file.write(json.dumps({"step": step, **losses, "seconds": time.perf_counter() - began}) + "\n")
            bar.set_postfix({name: f"{value:.3g}" for name, value in losses.items()}, refresh=False)
            bar.update()
    return net


def _batch(images: TrainingImages, config: VaeConfig, step: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the images, labels and positions of a step.

    Training walks an endless chain of shuffles of the data, in which an image's place is its position; batches
    are cut from the chain without regard to where one shuffle ends.
    """
    positions = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)
    shuffle = positions // len(images)
    order = torch.cat(
        [
            rng.permutation(config.seed, "vae.order", epoch, len(images))
            for epoch in range(int(shuffle[0]), int(shuffle[-1]) + 1)
        ]
    )
    rows = order[positions - shuffle[0] * len(images)]
    batch = images.images[rows].to(config.device).float() / 255
    labels = None if images.labels is None else images.labels[rows].to(config.device)
    return warp(batch, strength=config.augment, seed=config.seed, positions=positions), labels, positions


def _learning_rate(config: VaeConfig, step: int) -> float:
    """A linear rise over the first twentieth of the steps under a half cosine down to 0."""
    rise = min(1.0, (step + 1) / max(1.0, config.steps / 20))
    return config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))


def _beta(config: VaeConfig, step: int) -> float:
    """The weight of the divergence, rising linearly."""
    return config.beta * min(1.0, (step + 1) / max(1.0, config.warmup_fraction * config.steps))


@torch.no_grad()
def _fit_prior(net: VaeNet, images: TrainingImages, config: VaeConfig) -> None:
    """Fit the prior to the codes of all images under several warps each, as the encoder met them."""
    codes = []
    views = _PRIOR_VIEWS if config.augment else 1
    positions = torch.arange(views * len(images))
    for chunk in positions.split(256):
        rows = chunk % len(images)
        batch = images.images[rows].to(config.device).float() / 255
        labels = None if images.labels is None else images.labels[rows].to(config.device)
        batch = warp(batch, strength=config.augment, seed=rng.derive_seed(config.seed, "vae.prior"), positions=chunk)
        codes.append(net.encode(batch, labels))
    mean, log_variance = (torch.cat(parts) for parts in zip(*codes, strict=True))
    labels = None if images.labels is None else images.labels.to(config.device).repeat(views)
    net.fit_prior(mean, log_variance, labels)


def _save_grid(synthesizer: NetworkSynthesizer, path: Path, seed: int) -> None:
    """Write a PNG with a row of samples per class, at the same latents every time."""
    from torchvision.utils import save_image

    classes = min(synthesizer.num_classes or _GRID_CLASSES, _GRID_CLASSES)
    labels = None if synthesizer.num_classes is None else torch.arange(classes).repeat_interleave(_GRID_COLUMNS)
    samples, _ = synthesizer.sample(classes * _GRID_COLUMNS, labels=labels, seed=seed)
    buffer = io.BytesIO()
    save_image(samples, buffer, format="png", nrow=_GRID_COLUMNS)
    write_atomically(path, buffer.getvalue())
