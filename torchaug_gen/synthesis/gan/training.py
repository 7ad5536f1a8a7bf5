"""Training a generative adversarial network into a synthesizer."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.gan.dcgan import DcganCriticNet, DcganGeneratorNet
from torchaug_gen.synthesis.gan.diffaugment import OPERATIONS, check_operations, diffaugment
from torchaug_gen.synthesis.gan.losses import (
    gradient_penalty,
    nonsaturating_critic_loss,
    nonsaturating_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
)
from torchaug_gen.synthesis.gan.network import CriticNet, GeneratorNet
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training import distributed
from torchaug_gen.synthesis.training.data import TrainingImages, read_images
from torchaug_gen.synthesis.training.loop import train
from torchaug_gen.synthesis.training.recipe import Batch, Recipe, Reduce
from torchaug_gen.synthesis.training.settings import TrainingSettings, check_count

RECIPES = ("r3gan", "dcgan")

# DiffAugment (Zhao et al., 2020) gains most below this many images and costs nothing much at it.
_AUGMENT_BELOW = 10_000
# Images per class below which conditioning makes modes collapse, as Shahbazi et al. (ICLR 2022) found.
_TRANSITION_BELOW = 100
_TRANSITION = 0.5
# Up to this side, steps are cheap enough for the wider networks: at 64 pixels the narrower ones make 2.4 times as many.
_SMALL = 48
# Where the critic tells every image apart for so long that its gradient is rounding, nothing is learned any more.
_SATURATED = 1e-4


@dataclass(frozen=True, kw_only=True)
class GanConfig(TrainingSettings):
    """How :func:`train_gan` trains. The defaults suit two CPU cores; on a GPU begin with :meth:`for_gpu`.

    A step takes 0.13 s of one server core at 28 pixels and 0.40 s at 64, all steps so 8 and 26 minutes. At 28 pixels
    samples are recognisable after a fifth of that; photographs at 64 need many more steps, and so a GPU.

    Fields that are ``None`` take the recipe's own value, which may depend on the data: see :meth:`resolved`.

    Args:
        recipe: ``"r3gan"``, residual networks under the relativistic pairing loss with R1 and R2, or ``"dcgan"``, the
            classic of the tutorials with the non-saturating loss, as a baseline.
        learning_rate: of Adam, for both networks.
        latent_dim: width of the latent vector.
        width: channels at half resolution; time grows with a little less than its square. ``None`` is 32 where the
            shorter side has up to 48 pixels, else 16; with ``"dcgan"`` 64.
        blocks: residual blocks at each resolution.
        gamma: weight γ of the gradient penalties R1 and R2 when training begins; 0 is none.
        gamma_decay: what γ is divided by until training ends, geometrically.
        penalty_every: steps between two penalties, each of which then counts so many times (Karras et al., "Analyzing
            and Improving the Image Quality of StyleGAN", CVPR 2020, section 3.1).
        ema_images: images after which a generator's weight in the average that is drawn from has halved, or a twentieth
            of those seen so far, where that is less; 0 draws from the generator itself.
        augment: operations of :mod:`torchaug_gen.synthesis.gan.diffaugment`; ``None`` is all below 10,000 images.
        mirror: flip half of the real images left to right.
        transition: part of the steps until the class counts in full, after none of it at first; ``None`` is a half
            where there are fewer than 100 images per class, else 0.

    The other fields are those of :class:`torchaug_gen.synthesis.training.settings.TrainingSettings`.

    Raises:
        ValueError: a field out of its range, named.
    """

    steps: int = 4000
    recipe: str = "r3gan"
    learning_rate: float | None = None
    latent_dim: int | None = None
    width: int | None = None
    blocks: int = 1
    gamma: float | None = None
    gamma_decay: float = 10.0
    penalty_every: int = 4
    ema_images: int | None = None
    augment: tuple[str, ...] | None = None
    mirror: bool = False
    transition: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        for name in ("latent_dim", "width", "blocks", "penalty_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.ema_images is not None:
            check_count("ema_images", self.ema_images, least=0)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.gamma is not None and not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, got {self.gamma}")
        if not 1 <= self.gamma_decay < math.inf:
            raise ValueError(f"gamma_decay must be at least 1 and finite, got {self.gamma_decay}")
        if self.transition is not None and not 0 <= self.transition <= 1:
            raise ValueError(f"transition must be in [0, 1], got {self.transition}")
        if self.augment is not None:
            check_operations(self.augment)

    @classmethod
    def for_gpu(cls, **changes: Any) -> Self:
        """Return a configuration for one GPU, larger and longer than the defaults: 13 million images.

        Its sizes are chosen after those of the paper's small networks; they were not tuned on one.

        Args:
            **changes: fields that differ.
        """
        fields = {"device": "cuda", "steps": 50_000, "batch_size": 256, "width": 128, "blocks": 2} | changes
        return cls(**cast(Any, {"learning_rate": 2e-4, "checkpoint_every": 2500, "grid_every": 2500} | fields))

    def resolved(self, images: TrainingImages) -> Self:
        """Return the configuration with a value for every field, chosen for these images."""
        few = len(images) < _AUGMENT_BELOW
        scarce = images.num_classes is not None and len(images) < _TRANSITION_BELOW * images.num_classes
        r3gan = {
            "learning_rate": 1e-3,
            "latent_dim": 64,
            "width": 32 if min(images.image_shape[1:]) <= _SMALL else 16,
            "gamma": 10.0,
            "ema_images": 10_000,
            "augment": OPERATIONS if few else (),
            "transition": _TRANSITION if scarce else 0.0,
        }
        dcgan = {
            "learning_rate": 2e-4,
            "latent_dim": 100,
            "width": 64,
            "gamma": 0.0,
            "ema_images": 0,
            "augment": (),
            "transition": 0.0,
        }
        own = r3gan if self.recipe == "r3gan" else dcgan
        return replace(self, **cast(Any, {name: value for name, value in own.items() if getattr(self, name) is None}))


class GanRecipe(Recipe):
    """A generator against a critic; in each step the critic learns first.

    Args:
        images: what will be learned from.
        config: how.

    Raises:
        ValueError: penalties or a transition of the class with networks that have none.
    """

    def __init__(self, images: TrainingImages, config: GanConfig) -> None:
        self.config = config = config.resolved(images)
        self._images = images
        self._relativistic = config.recipe == "r3gan"
        with Seeded(rng.derive_seed(config.seed, "gan.weights")):
            self.generator, self.critic = _networks(images, config)
        # Copied after it was moved, so that both have one memory format, and averaging runs through it in order.
        for net in (self.generator, self.critic):
            net.to(config.local_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.networks = nn.ModuleDict({"generator": self.generator, "critic": self.critic, "averaged": self.averaged})
        # Momentum keeps pushing where the other network has already moved, hence β₁ = 0; DCGAN's own is 0.5.
        betas = (0.0, 0.99) if self._relativistic else (0.5, 0.999)
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=cast(float, config.learning_rate), betas=betas)
            for name, net in (("generator", self.generator), ("critic", self.critic))
        }

    def step(self, batch: Batch, step: int, *, reduce: Reduce) -> dict[str, Tensor]:
        """Do one step of the critic and one of the generator; see :meth:`Recipe.step`."""
        self._set_phase(step)
        real = self._mirrored(batch.images * 2 - 1, batch.positions)
        real = self._seen(real, "real", batch.positions)
        losses = self._critic_step(real, batch, step, reduce)
        losses |= self._generator_step(real, batch, reduce)
        self._average(step)
        return losses

    def synthesizer(self) -> NetworkSynthesizer:
        """Return a synthesizer around the averaged generator; see :meth:`Recipe.synthesizer`."""
        return NetworkSynthesizer(
            self.averaged,
            latent_dim=cast(int, self.config.latent_dim),
            image_shape=self._images.image_shape,
            num_classes=self._images.num_classes,
            value_range=(0.0, 1.0),
        )

    def verdict(self, losses: Mapping[str, float], step: int) -> str | None:
        """Return what is wrong where one of the two networks has won; see :meth:`Recipe.verdict`.

        Args:
            losses: of :meth:`step`, averaged over some tens of steps.
            step: number of the step.
        """
        if losses["critic"] < _SATURATED:
            return (
                f"the critic's loss is {losses['critic']:.2g}: it tells every image apart (gap {losses['gap']:.3g}), "
                "and the generator learns nothing from it; raise gamma"
            )
        if losses["generator"] < _SATURATED:
            return f"the generator's loss is {losses['generator']:.2g}: the critic takes every synthetic image for real"
        return None

    def _critic_step(self, real: Tensor, batch: Batch, step: int, reduce: Reduce) -> dict[str, Tensor]:
        with torch.no_grad():
            synthetic = self._draw("critic", batch)
        every, gamma = self.config.penalty_every, _gamma(self.config, step)
        penalty = real.new_zeros(())
        if gamma and step % every == 0:
            # Differentiated twice: in bfloat16 the squared norm would keep two digits.
            with torch.autocast(real.device.type, enabled=False):
                on_real, steep_real = gradient_penalty(lambda x: self.critic(x, batch.labels), real)
                on_synthetic, steep_synthetic = gradient_penalty(lambda x: self.critic(x, batch.labels), synthetic)
            penalty = gamma / 2 * (steep_real.mean() + steep_synthetic.mean())
        else:
            on_real, on_synthetic = self.critic(real, batch.labels), self.critic(synthetic, batch.labels)
        loss = relativistic_critic_loss if self._relativistic else nonsaturating_critic_loss
        value = loss(on_real.float(), on_synthetic.float())
        self._descend("critic", self.critic, value + every * penalty, reduce)
        gap = on_real.detach().float().mean() - on_synthetic.detach().float().mean()
        # Shown per step, as if it had been taken in each.
        return {"critic": value.detach(), "penalty": penalty.detach(), "gap": gap}

    def _generator_step(self, real: Tensor, batch: Batch, reduce: Reduce) -> dict[str, Tensor]:
        # The critic's own gradients are not wanted here, and are a third of its backward pass.
        self.critic.requires_grad_(False)
        on_synthetic = self.critic(self._draw("generator", batch), batch.labels).float()
        if self._relativistic:
            with torch.no_grad():
                on_real = self.critic(real, batch.labels).float()
            loss = relativistic_generator_loss(on_real, on_synthetic)
        else:
            loss = nonsaturating_generator_loss(on_synthetic, on_synthetic)
        self._descend("generator", self.generator, loss, reduce)
        self.critic.requires_grad_(True)
        return {"generator": loss.detach()}

    def _descend(self, name: str, net: nn.Module, loss: Tensor, reduce: Reduce) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        reduce(net.parameters())
        optimizer.step()

    def _draw(self, stream: str, batch: Batch) -> Tensor:
        """Return synthetic images as the critic sees them, with the labels of the batch.

        Each is judged beside the real image of its row, so both are of one class.
        """
        config, device = self.config, batch.images.device
        size = (cast(int, config.latent_dim),)
        z = rng.normal(config.seed, f"gan.latents.{stream}", 0, batch.positions, size).to(device)
        generator = cast(GeneratorNet | DcganGeneratorNet, self.generator)
        return self._seen(generator.generate(z, batch.labels).float(), stream, batch.positions)

    def _seen(self, images: Tensor, stream: str, positions: Tensor) -> Tensor:
        operations = cast(tuple[str, ...], self.config.augment)
        stream = f"gan.augment.{stream}"
        return diffaugment(images, operations=operations, seed=self.config.seed, stream=stream, positions=positions)

    def _mirrored(self, images: Tensor, positions: Tensor) -> Tensor:
        if not self.config.mirror:
            return images
        flips = rng.uniform(self.config.seed, "gan.mirror", 0, positions) < 0.5
        return torch.where(flips.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)

    def _set_phase(self, step: int) -> None:
        phase = class_phase(self.config, step)
        for net in (self.generator, self.critic):
            if isinstance(net, GeneratorNet | CriticNet):
                net.phase.fill_(phase)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        config = self.config
        half_life = min(cast(int, config.ema_images), 0.05 * (step + 1) * config.batch_size)
        keep = 0.5 ** (config.batch_size / half_life) if half_life else 0.0
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.generator.parameters()), 1 - keep)
        for net in (self.generator, self.critic):
            for buffer in net.buffers():
                # Statistics of batch normalisation, which each process has of its own rows.
                if buffer.is_floating_point() and buffer.dim():
                    buffer.copy_(distributed.mean(buffer))
        for mine, buffer in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(buffer)


def class_phase(config: GanConfig, step: int) -> float:
    """Return how much the class counts at a step, from 0 at first to 1.

    Shahbazi, Danelljan, Paudel and Van Gool, "Collapse by Conditioning: Training Class-conditional GANs with Limited
    Data" (ICLR 2022): with few images per class, training begins as if there were no classes, and the class
    is phased in linearly. It scales the embedding of the class in the generator and its term in the critic's score.
    """
    return min(1.0, step / (config.transition * config.steps)) if config.transition else 1.0


def train_gan(
    data: str | Path | Dataset[Any],
    config: GanConfig = GanConfig(),
    *,
    out: str | Path,
    resume: bool = False,
    progress: bool = True,
) -> NetworkSynthesizer:
    """Train a generative adversarial network and return the synthesizer that draws from its generator.

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
        images = read_images(data, image_size=config.size, seed=config.seed, max_gib=config.max_data_gib)
        recipe = GanRecipe(images, config)
        # As resolved, so that training.json tells what was done.
        return train(recipe, images, recipe.config, out=out, resume=resume, progress=progress)


def _gamma(config: GanConfig, step: int) -> float:
    return cast(float, config.gamma) / math.pow(config.gamma_decay, step / config.steps)


def _networks(images: TrainingImages, config: GanConfig) -> tuple[nn.Module, nn.Module]:
    shape, classes, width = images.image_shape, images.num_classes, cast(int, config.width)
    latent_dim = cast(int, config.latent_dim)
    if config.recipe == "dcgan":
        if config.gamma or config.transition:
            raise ValueError(
                "gamma and transition must be 0 with recipe='dcgan', whose batch normalisation makes a score depend on "
                f"other images and whose networks have no phase, got {config.gamma} and {config.transition}"
            )
        return (
            DcganGeneratorNet(image_shape=shape, latent_dim=latent_dim, num_classes=classes, width=width),
            DcganCriticNet(image_shape=shape, num_classes=classes, width=width),
        )
    return (
        GeneratorNet(image_shape=shape, latent_dim=latent_dim, num_classes=classes, width=width, blocks=config.blocks),
        CriticNet(image_shape=shape, num_classes=classes, width=width, blocks=config.blocks),
    )
