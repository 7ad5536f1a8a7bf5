"""Passes over loaders, and questions that contestants answer by them."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks import common, limits, machine
from benchmarks.rounds import Figure, Work, rate, take_turns

Run = Callable[[Iterable[Any]], int]


@dataclass(frozen=True)
class Question:
    """What contestants are measured by, one pass each in every round.

    Attributes:
        baseline: the contestant that all are compared with.
        contestants: by name what goes through one pass, and returns how many images there were.
        limit: what nobody can beat, and what does it; None where the baseline is that.
        rounds: the most.
        about: what the case says besides, see :func:`benchmarks.common.case`.
        real: the share of real images, of contestants that deliver synthetic ones too.
    """

    baseline: str
    contestants: Mapping[str, Work]
    limit: tuple[str, Work] | None = None
    rounds: int = 15
    about: Mapping[str, Any] = field(default_factory=dict)
    real: Mapping[str, float] = field(default_factory=dict)

    def case(self, *, rounds: int, seconds: float) -> dict[str, Any]:
        """Return the case of images per second.

        Args:
            rounds: the most, where those of the question are not fewer.
            seconds: no further round is begun after these, but for the fewest that are published.
        """
        works = dict([*self.contestants.items(), *([self.limit] if self.limit else [])])
        figures = {name: functools.partial(rate, work) for name, work in works.items()}
        found = self._case(figures, rounds=rounds, seconds=seconds, limit=self.limit and self.limit[0])
        real = {name: share * found["summary"][name]["median"] for name, share in self.real.items()}
        return found | ({"real_per_second": real} if real else {})

    def case_of_steps(self, *, batch_size: int, rounds: int, seconds: float) -> dict[str, Any]:
        """Return the case of milliseconds for each ``batch_size`` images, of contestants that train on them."""
        figures = {name: functools.partial(_milliseconds, work, batch_size) for name, work in self.contestants.items()}
        unit = f"ms per training step of {batch_size} images"
        return self._case(figures, rounds=rounds, seconds=seconds, unit=unit, better="lower")

    def _case(self, figures: Mapping[str, Figure], *, rounds: int, seconds: float, **about: Any) -> dict[str, Any]:
        found = take_turns(figures, rounds=min(rounds, self.rounds), seconds=seconds)
        return common.case(found, baseline=self.baseline, **about, **self.about)


def _milliseconds(work: Work, batch_size: int) -> float:
    start = time.perf_counter()
    images = work()
    return (time.perf_counter() - start) / images * batch_size * 1e3


def counted(loader: Iterable[Any]) -> int:
    """Return how many images a loader delivers."""
    images, count = None, 0
    for images, labels in loader:  # noqa: B007 - the last ones are waited for
        count += len(labels)
    if isinstance(images, torch.Tensor):
        limits.finish(images)
    return count


def trained(loader: Iterable[Any]) -> int:
    """Take a training step of a small classifier on each batch of digits, and return how many images there were."""
    net, count, loss = classifier().to(machine.device()), 0, torch.zeros(())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for images, labels in loader:
        optimizer.zero_grad()
        outputs = net(images.to(machine.device()).float())
        loss = nn.functional.cross_entropy(outputs, labels.to(machine.device()))
        torch.autograd.backward(loss)
        optimizer.step()
        count += len(labels)
    limits.finish(loss)
    return count


def classifier() -> nn.Module:
    """Return a small convolutional classifier of digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )
