"""GanRecipe: what a generative adversarial network does in a step of its training."""

import copy
import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.gan.config import GanConfig
from torchaug_gen.synthesis.gan.dcgan import DcganCriticNet, DcganGeneratorNet
from torchaug_gen.synthesis.gan.diffaugment import diffaugment
from torchaug_gen.synthesis.gan.losses import (
    gradient_penalty,
    nonsaturating_critic_loss,
    nonsaturating_generator_loss,
    relativistic_critic_loss,
    relativistic_generator_loss,
)
from torchaug_gen.synthesis.gan.network import CriticNet, GeneratorNet
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Batch, Recipe, Reduce

# Where the critic tells every image apart for so long that its gradient is rounding, nothing is learned any more.
_SATURATED = 1e-4


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
        self.optimizers = {
            name: torch.optim.Adam(net.parameters(), lr=cast(float, config.learning_rate), betas=betas(config, 0))
            for name, net in (("generator", self.generator), ("critic", self.critic))
        }

    def step(self, batch: Batch, step: int, *, reduce: Reduce) -> dict[str, Tensor]:
        """Do one step of the critic and one of the generator; see :meth:`Recipe.step`."""
        self._set_phase(step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["betas"], group["lr"] = betas(self.config, step), learning_rate(self.config, step)
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
        for mine, buffer in zip(self.averaged.buffers(), self.generator.buffers(), strict=True):
            mine.copy_(buffer)


def class_phase(config: GanConfig, step: int) -> float:
    """Return how much the class counts at a step, from 0 at first to 1.

    Shahbazi, Danelljan, Paudel and Van Gool, "Collapse by Conditioning: Training Class-conditional GANs with Limited
    Data" (ICLR 2022): with few images per class, training begins as if there were no classes, and the class
    is phased in linearly. It scales the embedding of the class in the generator and its term in the critic's score.
    """
    return min(1.0, step / (config.transition * config.steps)) if config.transition else 1.0


def betas(config: GanConfig, step: int) -> tuple[float, float]:
    """Return Adam's β₁ and β₂ at a step.

    Momentum keeps pushing where the other network has already moved, hence β₁ = 0; DCGAN's own is 0.5. A β₂ that is
    small at first forgets the gradients of the beginning (Huang et al., "The GAN is dead; long live the GAN!", 2024).
    """
    beta1, last = (0.0, 0.99) if config.recipe == "r3gan" else (0.5, 0.999)
    first = last if config.beta2 is None else config.beta2
    return beta1, last + (first - last) * _half_cosine(config, step)


def learning_rate(config: GanConfig, step: int) -> float:
    """Return the learning rate of both networks at a step."""
    first = cast(float, config.learning_rate)
    last = first / config.learning_rate_decay
    return last + (first - last) * _half_cosine(config, step)


def _half_cosine(config: GanConfig, step: int) -> float:
    """Return 1 when training begins, and 0 when it ends."""
    return 0.5 + 0.5 * math.cos(math.pi * step / config.steps)


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
