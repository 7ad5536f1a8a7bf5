"""Provenance: where a synthetic sample comes from, and what gates found in it."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchaug_gen.synthesis.digests import digest
from torchaug_gen.synthesis.gates import GatedSynthesizer
from torchaug_gen.synthesis.gates.gate import Gate, as_gates
from torchaug_gen.synthesis.gates.stats import GateStats
from torchaug_gen.synthesis.gates.view import View
from torchaug_gen.synthesis.runs import SUMS
from torchaug_gen.synthesis.synthesizer import Synthesizer

# GatedSynthesizer's: position p owns the candidates p · 2²⁰ + i.
_CANDIDATE_BITS = 20


class Provenance:
    """Draws samples, through gates where there are some, and tells of each where it comes from.

    Args:
        synthesizer: what draws.
        gates: one, several, or none.
        run: tells which weights draw.
        seed: of all samples.
        max_candidates: see :class:`GatedSynthesizer`.
    """

    def __init__(self, synthesizer: Synthesizer, gates: Any, *, run: str, seed: int, max_candidates: int) -> None:
        self.gates = as_gates(gates)
        self._passed = _Passed(self.gates)
        self._source = synthesizer
        if self.gates:
            self._source = GatedSynthesizer(synthesizer, (*self.gates, self._passed), max_candidates=max_candidates)
        self._about = {"synthetic": True, "run": run, "seed": seed, "epoch": 0, "package": version("torchaug_gen")}
        self._seed = seed

    @property
    def stats(self) -> GateStats | None:
        """How many candidates each gate has let through, where there are gates."""
        return self._source.stats if isinstance(self._source, GatedSynthesizer) else None

    def sample(
        self, samples: Tensor, labels: Sequence[int] | None
    ) -> tuple[Tensor, list[int] | None, list[dict[str, Any]]]:
        """Draw samples.

        Args:
            samples: ``(N,)`` int64, their numbers.
            labels: classes in turn, or ``None`` for all.

        Returns:
            Images ``(N, C, H, W)``, their labels, if any, and what is to be told of each.
        """
        classes = self._source.num_classes
        asked = None
        if classes is not None:
            turn = torch.arange(classes) if labels is None else torch.as_tensor(labels)
            asked = turn[samples % len(turn)]
        self._passed.clear()
        images, _ = self._source.sample(labels=asked, positions=samples, seed=self._seed)
        told = [self._about | self._passed.told(number) for number in samples.tolist()]
        names = self._source.classes
        if asked is None:
            return images, None, told
        chosen = asked.tolist()
        for label, values in zip(chosen, told, strict=True):
            values.update({"label": label} if names is None else {"label": label, "class": names[label]})
        return images, chosen, told


class _Passed:
    """A last gate, which everything passes that comes to it, and which remembers what came.

    Args:
        gates: those before it, whose findings it remembers too.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._gates = gates
        types = [type(gate).__name__ for gate in gates]
        # Numbered where a type occurs again.
        self._names = [
            f"{name} {types[:i].count(name) + 1}" if name in types[:i] else name for i, name in enumerate(types)
        ]
        self._found: dict[int, tuple[int, dict[str, float]]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._found = {}

    def passes(self, images: Tensor, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return True for all; see :meth:`Gate.passes`."""
        scores = [found_by(gate, images, labels) for gate in self._gates]
        told = {name: found.tolist() for name, found in zip(self._names, scores, strict=True) if found is not None}
        for place, position in enumerate(positions.tolist()):
            sample = position >> _CANDIDATE_BITS
            # Of the candidates of a sample that pass, the first is delivered.
            if sample not in self._found or position < self._found[sample][0]:
                self._found[sample] = position, {name: values[place] for name, values in told.items()}
        return torch.ones(len(images), dtype=torch.bool, device=images.device)

    def told(self, sample: int) -> dict[str, Any]:
        """Return what is to be told of a sample."""
        position, scores = self._found.get(sample, (sample, None))
        told: dict[str, Any] = {"sample": sample, "position": position}
        return told if scores is None else told | {"gates": scores}


def found_by(gate: Gate, images: Tensor, labels: Tensor | None) -> Tensor | None:
    """Return the number that a gate decides by, ``(N,)`` float64 on the CPU, or ``None`` of a gate that has none.

    Args:
        gate: says it with a method ``scores(images, labels)``, as those of the package do.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``, or ``None``.
    """
    scores = getattr(gate, "scores", None)
    return torch.as_tensor(scores(images, labels)).double().cpu() if callable(scores) else None


def describe_gate(gate: Gate) -> dict[str, Any]:
    """Return what tells a gate from others, as JSON can hold it: type, settings, and a digest of its tensors."""
    values = {name.lstrip("_"): value for name, value in vars(gate).items()}
    # JSON knows no infinity.
    settings = {name: repr(value) for name, value in values.items() if isinstance(value, int | float)}
    tensors = [tensor for value in values.values() for tensor in _tensors(value)]
    return {"gate": type(gate).__name__, "settings": settings, "digest": digest(*tensors) if tensors else None}


def run_sha256(path: Path) -> str:
    """Return what tells one run, file or folder with a network from others.

    It is the SHA-256 of a file; of a run folder that of its ``SHA256SUMS``; of any other folder that of what
    ``sha256sum`` prints of its files in the order of their names.
    """
    if path.is_file():
        return _sha256(path)
    if (path / SUMS).is_file():
        return _sha256(path / SUMS)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, View):
        return [tensor for part in vars(value).values() for tensor in _tensors(part)]
    if isinstance(value, nn.Module):
        return [tensor for tensor in value.state_dict().values() if isinstance(tensor, Tensor)]
    return [value] if isinstance(value, Tensor) else []
