"""Feature spaces: where distances between sets of images are measured."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from torchaug_gen import rng
from torchaug_gen.evaluation.classifier import SmallClassifier, fit
from torchaug_gen.evaluation.images import Size, classes_of, image_chunks
from torchaug_gen.evaluation.spaces import ClassifierFeatures, DctFeatures, EffnetFeatures, RandomFeatures, Shuffled
from torchaug_gen.pixels import convert
from torchaug_gen.seeded import Seeded

# On a CPU the maps of few images stay in its cache: 'effnet' takes 33 images/s on a core in chunks of 8, 24 in chunks
# of 32.
_CHUNK_CPU, _CHUNK_CUDA = 8, 256
# Images that are read or drawn at once: a synthesizer would pad the few that one chunk holds.
_READ = 256


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A named network from images to features.

    Attributes:
        name: what distances are called after: ``FD-<name>``.
        network: maps floating images ``(N, C, H, W)`` in [0, 1] to ``(N, D)``, or to maps ``(N, D, h, w)``, whose mean
            is taken. It is used in evaluation mode.
    """

    name: str
    network: nn.Module

    @property
    def device(self) -> torch.device:
        """The device of the network's first parameter or buffer."""
        tensor = next(chain(self.network.parameters(), self.network.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def fingerprint(self) -> str:
        """Return a digest of the network: equal where features are comparable."""
        digest = hashlib.blake2b(f"{self.name}\n{self.network!r}".encode(), digest_size=8)
        for tensor in self.network.state_dict().values():
            if isinstance(tensor, Tensor):
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 features ``(N, D)``.

        Args:
            images: ``(N, C, H, W)``, uint8 or floating in [0, 1]; moved to the network's device.

        Raises:
            ValueError: the network gives another shape, or features that are not finite.
        """
        features = self.network(convert(images.to(self.device), torch.float32))
        if isinstance(features, Tensor) and features.ndim == 4:
            features = features.mean(dim=(2, 3))
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"the feature space {self.name!r} must give ({len(images)}, D) features, got {got}")
        if not features.isfinite().all():
            raise ValueError(f"the feature space {self.name!r} must give finite features, got NaN or infinity")
        return features.float()


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of a set of images.

    Attributes:
        values: ``(N, D)`` float32, on the device where distances are to be computed.
        labels: ``(N,)`` int64 on the CPU, or ``None``.
        space: the name of the feature space.
        fingerprint: its digest, which two sets must share to be compared.
        image_shape: ``(C, H, W)`` of the images.
        classes: names of the classes in the order of their labels, where known.
    """

    values: Tensor
    labels: Tensor | None
    space: str
    fingerprint: str
    image_shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def of_class(self, label: int) -> "FeatureSet":
        """Return the features of one class."""
        if self.labels is None:
            raise ValueError("features of one class need labels, but these images have none")
        return self.take((self.labels == label).nonzero()[:, 0])

    def take(self, rows: Tensor) -> "FeatureSet":
        """Return the features of these rows, ``(K,)`` int64 on the CPU."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, values=self.values[rows.to(self.values.device)], labels=labels)


def feature_space(
    features: str | nn.Module | FeatureSpace = "effnet", *, device: torch.device | str | None = None
) -> FeatureSpace:
    """Return a feature space by its name, or around a network.

    Args:
        features: ``"effnet"`` (EfficientNet-lite0 on ImageNet weights; ``"effnet128"`` at an input of 128 px instead of
            224, for a third of the time), ``"dct"``, ``"random"``, any module, which is named after its class, or
            a feature space. One from a classifier of the user's own comes from :func:`classifier_space`.
        device: where the network is moved; ``None`` leaves it where it is.

    Raises:
        ValueError: an unknown name.
        ModuleNotFoundError: ``"effnet"`` without the package that holds its weights.
    """
    if isinstance(features, FeatureSpace):
        space = features
    elif isinstance(features, nn.Module):
        space = FeatureSpace(type(features).__name__.lower(), features)
    else:
        space = FeatureSpace(str(features), _network(features))
    if device is not None:
        space.network.to(device)
    return space


def classifier_space(
    train: Any,
    *,
    steps: int = 300,
    batch_size: int = 64,
    width: int = 16,
    image_size: Size | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> FeatureSpace:
    """Train a small classifier on real images and return the features that it decides by, as ``'clf'``.

    Such features know the user's classes, where ImageNet's may not. They were fitted to the training images, so
    distances are best measured to held-out ones.

    Args:
        train: labelled images; see :func:`~torchaug_gen.evaluation.images.image_chunks`. Held in memory.
        steps: optimiser steps.
        batch_size: of each step.
        width: of the classifier; 16 gives 64 features.
        image_size: ``(H, W)`` that images are resized to, or ``None``.
        device: where to train, and where the network stays.
        seed: of weights, order and warps.
        progress: show a bar.

    Raises:
        ValueError: images without labels, of fewer than two classes, or with sides outside 8..128.
    """
    with _loaders_seeded(seed):
        chunks = list(image_chunks(train, size=_READ, image_size=image_size, seed=seed))
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    if len(labels) < len(chunks):
        raise ValueError("the feature space 'clf' is trained on labelled images, but these have no labels")
    images, marks = torch.cat([chunk.images for chunk in chunks]), torch.cat(labels)
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with Seeded(rng.derive_seed(seed, "evaluation.classifier")):
        classifier = SmallClassifier(shape, int(marks.max()) + 1, width=width).to(device)
        with tqdm(total=steps, unit="step", desc="classifier for features", disable=not progress) as bar:
            fit(classifier, Shuffled(images, marks, batch_size=batch_size, seed=seed), steps, progress=bar)
    return FeatureSpace("clf", ClassifierFeatures(classifier.eval().requires_grad_(False)))


def embed(
    data: Any,
    features: str | nn.Module | FeatureSpace = "effnet",
    *,
    n: int | None = None,
    labels: Tensor | None = None,
    image_size: Size | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> FeatureSet:
    """Return the features of images, to be compared once or many times.

    Args:
        data: images, labelled or not, a synthesizer, a dataset, a folder, or an iterable of batches; see
            :func:`~torchaug_gen.evaluation.images.image_chunks`.
        features: the feature space; see :func:`feature_space`.
        n: at most so many images; required for a synthesizer without ``labels``.
        labels: ``(n,)`` int64 that a synthesizer is to draw.
        image_size: ``(H, W)`` that images are resized to before anything else, or ``None``.
        batch_size: images that go through the network at once; ``None``: 8 on a CPU, 256 elsewhere.
        device: where the network runs and features stay; ``None``: where the network is.
        seed: of the choice of images, and of the synthesizer.
        progress: show a bar.

    Raises:
        ValueError: images that cannot be read as such; see
            :func:`~torchaug_gen.evaluation.images.image_chunks`.
    """
    space = feature_space(features, device=device)
    size = batch_size or (_CHUNK_CPU if space.device.type == "cpu" else _CHUNK_CUDA)
    values: list[Tensor] = []
    marks: list[Tensor | None] = []
    shape: tuple[int, ...] = ()
    with (
        torch.no_grad(),
        _loaders_seeded(seed),
        _evaluating(space.network),
        tqdm(unit="image", desc=space.name, disable=not progress) as bar,
    ):
        for images, chunk_labels in image_chunks(
            data, size=_READ, n=n, labels=labels, image_size=image_size, seed=seed
        ):
            for rows in images.split(size):
                # Networks that draw random numbers get them from the seed, not from the global generators.
                with Seeded(rng.derive_seed(seed, "evaluation.features", 0, len(values))):
                    values.append(space(rows))
            marks.append(chunk_labels)
            shape = tuple(images.shape[1:])
            bar.update(len(images))
    known = [mark for mark in marks if mark is not None]
    if known and len(known) < len(marks):
        raise ValueError("all images must have labels, or none, but only some batches have")
    return FeatureSet(
        torch.cat(values), torch.cat(known) if known else None, space.name, space.fingerprint(), shape, classes_of(data)
    )


def _network(name: str) -> nn.Module:
    if match := re.fullmatch(r"effnet(\d*)", name):
        return EffnetFeatures(int(match[1] or 224))
    if name == "dct":
        return DctFeatures()
    if name == "random":
        return RandomFeatures()
    if name == "clf":
        raise ValueError("the feature space 'clf' must be trained first: features=classifier_space(training_images)")
    raise ValueError(f"features must be 'effnet', 'dct', 'random', a module or a FeatureSpace, got {name!r}")


@contextmanager
def _loaders_seeded(seed: int) -> Iterator[None]:
    """Let loaders, which draw from the global generator, draw from the seed, and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        # Of the CPU alone, where loaders draw: torch.manual_seed would seed CUDA too.
        torch.default_generator.manual_seed(rng.derive_seed(seed, "evaluation.loaders"))
        yield


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and afterwards each of its parts back into its own."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
