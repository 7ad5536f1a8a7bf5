"""Training a variational autoencoder into a synthesizer."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.training import distributed
from torchaug_gen.synthesis.training.data import TrainingImages, read_images, warp
from torchaug_gen.synthesis.training.loop import train
from torchaug_gen.synthesis.training.recipe import Batch, Recipe, Reduce
from torchaug_gen.synthesis.training.settings import TrainingSettings, check_count
from torchaug_gen.synthesis.vae.losses import detail_error, divergence, squared_error
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.prior import PRIORS
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer

_CLIP_NORM = 1.0
# Measured: at 28 px 4e-3 is better than 2e-3; at 64 px 1e-3 and 2e-3 leave half the error that 4e-3 leaves.
_LEARNING_RATE, _LEARNED_SIDE = 4e-3, 28
_PRIOR_VIEWS, _PRIOR_ROWS = 8, 20_000
# Of the term against blur, in the unit of pixels: a tenth of an 8-bit level, below which nothing is to be gained.
_LEAST_DETAIL = 0.1 / 255


@dataclass(frozen=True, kw_only=True)
class VaeConfig(TrainingSettings):
    """How :func:`train_vae` trains. The defaults suit 28-pixel digits, 50 of each: about 95 s of one CPU core.

    Args:
        learning_rate: of AdamW after its warm-up; it falls to 0 along a half cosine. ``None`` is 4e-3 up to 28 px, and
            for larger images as much less as their side is longer: deeper networks bear less.
        latent_dim: width of the code.
        width: channels at full and half resolution; time grows with its square.
        beta: weight of the divergence against the likelihood (Higgins et al., "beta-VAE", 2017). 1 is
            the bound itself; more gives codes that the prior resembles better, so that more samples are of their
            class, but blurs, and far above 10 may leave the code unused.
        free_bits: nats per dimension of the code that cost nothing (Kingma et al., "Improving Variational Inference
            with Inverse Autoregressive Flow", 2016).
        warmup_fraction: part of the steps over which the weight of the divergence grows from 0 to ``beta``
            (Sønderby et al., "Ladder Variational Autoencoders", 2016).
        detail: weight of the term against blur, :func:`torchaug_gen.synthesis.vae.losses.detail_error`, as the power of
            it that multiplies the squared error. 0 is none; 0.5 sharpens line drawings further, but gives photographs
            halos.
        prior: what to draw codes from: ``"mixture"`` of Gaussians or a single ``"gaussian"`` for each class, fitted to
            the codes of the training images, or the ``"normal"`` distribution N(0, I).
        components: the most Gaussians in the mixture of a class; cross-validation chooses how many it gets.
        augment: strength of the small random turns, scalings, shears and shifts of the training images, which help
            where there are few: 1 is up to 10 degrees, 10 % and 5 % of the side; 0 is none.

    The other fields are those of :class:`torchaug_gen.synthesis.training.settings.TrainingSettings`.

    Raises:
        ValueError: a field out of its range, named.
    """

    learning_rate: float | None = None
    latent_dim: int = 16
    width: int = 16
    beta: float = 8.0
    free_bits: float = 0.0
    warmup_fraction: float = 0.5
    detail: float = 0.2
    prior: str = "mixture"
    components: int = 8
    augment: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latent_dim", "width", "components"):
            check_count(name, getattr(self, name))
        for name in ("beta", "free_bits", "detail", "augment"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(f"warmup_fraction must be in [0, 1], got {self.warmup_fraction}")
        if self.prior not in PRIORS:
            raise ValueError(f"prior must be {', '.join(PRIORS[:-1])} or {PRIORS[-1]}, got {self.prior!r}")


class VaeRecipe(Recipe):
    """A :class:`VaeNet` under the negative evidence lower bound (Kingma and Welling 2014, eq. 10) per pixel.

    Args:
        images: what will be learned from.
        config: how.
    """

    def __init__(self, images: TrainingImages, config: VaeConfig) -> None:
        self.config = config
        with Seeded(rng.derive_seed(config.seed, "vae.weights")):
            net = VaeNet(
                image_shape=images.image_shape,
                latent_dim=config.latent_dim,
                num_classes=images.num_classes,
                width=config.width,
                # A single dimension has no angle to choose a component by.
                components=config.components if config.prior == "mixture" and config.latent_dim > 1 else 1,
            )
        self.net = net.to(config.local_device).to(memory_format=torch.channels_last)
        self.networks = nn.ModuleDict({"vae": self.net})
        self.optimizer = torch.optim.AdamW(self.net.parameters(), betas=(0.9, 0.99))
        self.optimizers = {"vae": self.optimizer}
        self._images = images

    def step(self, batch: Batch, step: int, *, reduce: Reduce) -> dict[str, Tensor]:
        """Do one step; see :meth:`Recipe.step`."""
        config, labels = self.config, batch.labels
        images = warp(batch.images, strength=config.augment, seed=config.seed, positions=batch.positions)
        mean, log_variance = self.net.encode(images, labels)
        noise = rng.normal(config.seed, "vae.codes", 0, batch.positions, (config.latent_dim,)).to(images.device)
        predicted = self.net.decode(mean + noise * (log_variance / 2).exp(), labels)
        mse, detail = squared_error(predicted, images), detail_error(predicted, images)
        pixels = math.prod(images.shape[1:])
        nll = pixels / 2 * _log_mean(mse)
        kl = divergence(mean, log_variance)
        charged = kl * (distributed.mean(kl) > config.free_bits)
        # The logarithm makes this term as free of the pixels' scale as the likelihood is.
        blur = config.detail * pixels / 2 * _log_mean(detail + _LEAST_DETAIL)
        loss = (nll + blur + self._beta(step) * charged.sum()) / pixels
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        reduce(self.net.parameters())
        nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self.optimizer.step()
        return {
            "loss": loss.detach(),
            "nll": nll.detach(),
            "kl": kl.detach().sum(),
            "mse": mse.detach(),
            "detail": detail.detach(),
        }

    def synthesizer(self) -> VaeSynthesizer:
        """Return a synthesizer around the network; see :meth:`Recipe.synthesizer`."""
        return VaeSynthesizer(
            self.net,
            latent_dim=self.config.latent_dim,
            image_shape=self._images.image_shape,
            num_classes=self._images.num_classes,
        )

    @torch.no_grad()
    def finish(self, images: TrainingImages) -> None:
        """Fit the prior to the codes of all images under several warps each, as the encoder met them."""
        config, device = self.config, self.config.local_device
        if config.prior == "normal":
            return
        views = max(1, min(_PRIOR_VIEWS, _PRIOR_ROWS // len(images))) if config.augment else 1
        seed = rng.derive_seed(config.seed, "vae.prior")
        codes = []
        for chunk in torch.arange(views * len(images)).split(256):
            rows = chunk % len(images)
            batch = images.images[rows].to(device).float() / 255
            labels = None if images.labels is None else images.labels[rows].to(device)
            codes.append(self.net.encode(warp(batch, strength=config.augment, seed=seed, positions=chunk), labels))
        mean, log_variance = (torch.cat(parts) for parts in zip(*codes, strict=True))
        labels = None if images.labels is None else images.labels.to(device).repeat(views)
        self.net.fit_prior(mean, log_variance, labels, views=views, seed=seed)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate before it falls: the one that was asked for, or what suits images of this size."""
        if self.config.learning_rate is not None:
            return self.config.learning_rate
        _, height, width = self._images.image_shape
        return _LEARNING_RATE * min(1.0, _LEARNED_SIDE / math.sqrt(height * width))

    def _learning_rate(self, step: int) -> float:
        """A linear rise over the first twentieth of the steps under a half cosine down to 0."""
        rise = min(1.0, (step + 1) / max(1.0, self.config.steps / 20))
        return self.peak_learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / self.config.steps))

    def _beta(self, step: int) -> float:
        """The weight of the divergence, rising linearly."""
        return self.config.beta * min(1.0, (step + 1) / max(1.0, self.config.warmup_fraction * self.config.steps))


def _log_mean(value: Tensor) -> Tensor:
    """Return the logarithm of the mean over all processes of a value that is a mean over rows.

    Its gradient is that of the value over the value of all processes' rows together.
    """
    whole = distributed.mean(value)
    return whole.log() + value / whole - 1


def train_vae(
    data: str | Path | Dataset[Any],
    config: VaeConfig = VaeConfig(),
    *,
    out: str | Path,
    resume: bool = False,
    progress: bool = True,
) -> VaeSynthesizer:
    """Train a variational autoencoder and return the synthesizer that draws from it.

    Args:
        data: see :func:`torchaug_gen.synthesis.training.data.read_images`.
        config: how to train.
        out: the run folder; it is made, and files of an earlier run in it are overwritten. What it receives, and how
            a training is watched, is said at :func:`torchaug_gen.synthesis.training.loop.train`.
        resume: go on from the newest checkpoint in ``out``.
        progress: show a progress bar.

    Returns:
        A synthesizer on ``config.device``, the one that ``Synthesizer.load(out)`` gives.

    Raises:
        ValueError: images or labels that cannot be learned from, named with their index; see also the loop.
        RuntimeError: the training diverged or collapsed again and again.
        TrainingInterrupted: a ``KeyboardInterrupt``; it was asked to stop, and the checkpoint is written.
    """
    with distributed.processes(config.local_device):
        images = read_images(
            data,
            image_size=config.size,
            seed=config.seed,
            max_gib=config.max_data_gib,
            labelled=not config.unconditional,
        )
        trained = train(VaeRecipe(images, config), images, config, out=out, resume=resume, progress=progress)
    # What a run folder with a VaeNet loads as.
    return cast(VaeSynthesizer, trained)
