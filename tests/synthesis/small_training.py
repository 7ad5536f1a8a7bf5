"""Images that are learned in a second, and a recipe that learns them with one small network."""

import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from torchaug_gen import rng
from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Recipe
from torchaug_gen.synthesis.training.settings import TrainingSettings
from torchaug_gen.synthesis.vae.network import VaeNet


class Items(Dataset):
    def __init__(self, items, classes=None):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def bars(shape=(1, 12, 12), n=24, labels=True, dtype=torch.uint8):
    """Images whose class is the half that is white."""
    items = []
    for index in range(n):
        image = torch.zeros(shape, dtype=dtype)
        image[:, : shape[1] // 2] = index % 3 * (100 if dtype is torch.uint8 else 0.4)
        items.append((image, index % 2) if labels else image)
        if index % 2:
            image[:] = image.flip(1)
    return Items(items)


def squares(n=24, classes=2):
    """Return images in memory: noise that is brighter the higher the class."""
    noise = rng.uniform(7, "squares", 0, torch.arange(n), (1, 8, 8))
    labels = torch.arange(n) % classes
    return TrainingImages(((noise + labels.view(-1, 1, 1, 1)) * 100).to(torch.uint8), labels, classes)


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@dataclass(frozen=True, kw_only=True)
class SmallSettings(TrainingSettings):
    learning_rate: float = 1e-3
    steps: int = 12
    batch_size: int = 4
    checkpoint_every: int = 4
    grid_every: int = 0


class SmallRecipe(Recipe):
    """A generator drawn to the training images pixel by pixel, with an averaged copy and two kinds of optimiser.

    ``hooks`` are called at their steps, each time they are done: with the recipe, and may return another loss.
    """

    def __init__(self, images, settings, *, hooks=()):
        self.settings, self.images, self.hooks = settings, images, dict(hooks)
        with Seeded(rng.derive_seed(settings.seed, "small.weights")):
            self.net, self.averaged = (
                VaeNet(image_shape=images.image_shape, latent_dim=4, num_classes=images.num_classes, width=4)
                for _ in range(2)
            )
        self.averaged.load_state_dict(self.net.state_dict())
        self.networks = nn.ModuleDict({"net": self.net, "averaged": self.averaged}).to(
            settings.local_device, memory_format=torch.channels_last
        )
        decoder = [p for name, p in self.net.named_parameters() if not name.startswith(("encoder", "to_code"))]
        self.optimizers = {
            "most": torch.optim.AdamW(decoder[1:], lr=settings.learning_rate, betas=(0.5, 0.9), amsgrad=True),
            "first": torch.optim.SGD(decoder[:1], lr=settings.learning_rate, momentum=0.9),
        }
        self.trained = decoder
        self.seen = []

    def step(self, batch, step, *, reduce):
        assert self.net.training, "drawing samples left the network in evaluation mode"
        self.seen.append((step, batch.positions.tolist()))
        latents = rng.normal(self.settings.seed, "small.latents", 0, batch.positions, (4,)).to(batch.images.device)
        loss = F.mse_loss(self.net(latents, batch.labels), batch.images)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        reduce(self.trained)
        for optimizer in self.optimizers.values():
            optimizer.step()
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 0.1)
        told = self.hooks[step](self) if step in self.hooks else None
        return {"loss": loss.detach() if told is None else torch.tensor(told)}

    def synthesizer(self):
        return NetworkSynthesizer(
            self.averaged,
            latent_dim=4,
            image_shape=self.images.image_shape,
            num_classes=self.images.num_classes,
            value_range=(0, 1),
        )
