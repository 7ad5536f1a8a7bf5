"""What synthesizers are compared by: distances in two feature spaces, and a classifier that tells what was drawn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.synthesis_data import Split
from torchaug_gen.evaluation.distances import measure_distances
from torchaug_gen.evaluation.features import FeatureSet, classifier_space, embed, feature_space

# Images of the distances: more synthetic ones than real ones make them more precise where real ones are few.
_TEST, _SYNTHETIC = 2000, 700
# Training images that the judge is fitted to, and the weight of its squared weights.
_JUDGED, _RIDGE = 3000, 0.01


class Judges:
    """What synthetic images are measured with: two feature spaces, and a linear classifier.

    Distances are those of EfficientNet features and of the features of a classifier trained on the training split. What
    class an image is of, is told by a logistic regression on the EfficientNet features of training images.

    Args:
        train: the training split.
        test: the held-out split.
    """

    def __init__(self, train: Split, test: Split) -> None:
        self.test = test.some(_TEST, seed=1)
        self.labels = _repeated(self.test.labels, _SYNTHETIC)
        self.spaces = [feature_space("effnet"), classifier_space(train.pair, steps=600)]
        self.real = [embed(self.test.pair, space) for space in self.spaces]
        seen = train.some(_JUDGED, seed=2)
        known = embed(seen.pair, self.spaces[0])
        self.judge = LinearJudge(known.values, seen.labels)
        part = train.some(len(self.labels), seed=2)
        self.floor = self._figures([replace(known, values=known.values[: len(part.labels)]), self._clf(part)])
        self.floor["label agreement"] = self.judge.agreement(self.real[0].values, self.test.labels)

    def measure(self, synthetic: Split) -> dict[str, Any]:
        """Return distances to the test split, precision, recall, and how many images are of their class."""
        sides = [embed(synthetic.pair, self.spaces[0]), self._clf(synthetic)]
        return self._figures(sides) | {"label agreement": self.judge.agreement(sides[0].values, synthetic.labels)}

    def _clf(self, split: Split) -> FeatureSet:
        return embed(split.pair, self.spaces[1])

    def _figures(self, sides: Sequence[FeatureSet]) -> dict[str, Any]:
        return {key: value for pair in zip(self.real, sides, strict=True) for key, value in _figures(*pair).items()}


class LinearJudge:
    """A logistic regression, fitted to features ``(N, D)`` and labels ``(N,)`` by L-BFGS."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self._mean, self._deviation = features.mean(0), features.std(0) + 1e-6
        self._layer = torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
        torch.nn.init.zeros_(self._layer.weight)
        torch.nn.init.zeros_(self._layer.bias)
        inputs = (features - self._mean) / self._deviation
        optimizer = torch.optim.LBFGS(self._layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimizer.zero_grad()
            value = F.cross_entropy(self._layer(inputs), labels) + _RIDGE * self._layer.weight.square().sum() / 2
            torch.autograd.backward(value)
            return float(value.detach())

        optimizer.step(loss)

    @torch.no_grad()
    def agreement(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of images that it takes for what the labels say."""
        guesses = self._layer((features - self._mean) / self._deviation).argmax(1)
        return float((guesses == labels).double().mean())


def _figures(real: FeatureSet, synthetic: FeatureSet) -> dict[str, Any]:
    named = measure_distances(real, synthetic).as_json()
    space = named["space"]
    shared = {key: named[key] for key in (f"KID-{space}", f"KID-{space}-interval", f"FD-{space}")}
    return shared | {f"{key}-{space}": named[key] for key in ("precision", "recall", "density", "coverage")}


def _repeated(labels: Tensor, count: int) -> Tensor:
    """Return labels over and over, at least ``count`` of them or all of them once."""
    return labels.repeat(-(-count // len(labels))) if len(labels) < count else labels
