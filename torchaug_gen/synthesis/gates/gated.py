"""GatedSynthesizer: draws candidates until they pass."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from torchaug_gen.pixels import TOLERANCE, convert
from torchaug_gen.synthesis.drawing import to_device
from torchaug_gen.synthesis.gates.gate import Gate, as_gates
from torchaug_gen.synthesis.gates.stats import GateStats
from torchaug_gen.synthesis.synthesizer import Synthesizer, check_images

# Candidates that a position has, as a power of two: positions up to 2⁴³ leave room for them in 63 bits.
_CANDIDATES = 1 << 20


class GatedSynthesizer(Synthesizer):
    """A synthesizer that delivers only what passes its gates.

    Position p owns the candidates p·2²⁰ + i, i = 0, 1, …, which are positions of the synthesizer inside; its image is
    the first that passes all gates. It so stays a function of (seed, epoch, position, label): how many are drawn at a
    time, and what else is asked for, does not matter.

    Drawing costs 1 / acceptance times as much as without gates, and on CUDA waits for each verdict; give gates to
    a :class:`SyntheticPool`, which draws in the background and uses every image more than once.

    Args:
        synthesizer: draws the candidates.
        gates: one gate, or a sequence of them that must all be passed. Each sees what the ones before it let
            through, so cheap ones come first.
        max_candidates: how many candidates in a row may be turned away, 1..2²⁰, before drawing fails with an error.
            With 1,024, one image in 30,000 fails where a hundredth passes, and every third where a thousandth does.
        chunk: candidates are drawn in multiples of this; the synthesizer's own ``chunk``, or 32, where it is ``None``.

    Attributes:
        stats: counts of candidates by gate and class.

    Raises:
        TypeError: no synthesizer or gate.
        ValueError: no gate at all, or a setting out of range.

    Example:
        >>> from torchaug_gen import NoiseSynthesizer
        >>> class Bright:
        ...     def passes(self, images, labels, *, seed, epoch, positions):
        ...         return images.mean(dim=(1, 2, 3)) > 0.5
        >>> images, _ = GatedSynthesizer(NoiseSynthesizer((1, 2, 2)), Bright()).sample(5)
        >>> bool((images.mean(dim=(1, 2, 3)) > 0.5).all())
        True
    """

    def __init__(
        self, synthesizer: Synthesizer, gates: Any, *, max_candidates: int = 1024, chunk: int | None = None
    ) -> None:
        if not isinstance(synthesizer, Synthesizer):
            raise TypeError(f"synthesizer must be a Synthesizer, got {type(synthesizer).__name__}")
        self.gates = as_gates(gates)
        if not self.gates:
            raise ValueError("gates must hold at least one gate, got none")
        if not 1 <= max_candidates <= _CANDIDATES:
            raise ValueError(f"max_candidates must be in 1..2**20, got {max_candidates}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        super().__init__(synthesizer.image_shape, num_classes=synthesizer.num_classes)
        self.synthesizer, self.classes = synthesizer, synthesizer.classes
        self.max_candidates = max_candidates
        self.chunk: int = getattr(synthesizer, "chunk", 32) if chunk is None else chunk
        self.stats = GateStats(_names(self.gates), self.num_classes or 1)

    @property
    def device(self) -> torch.device:
        """Where images are drawn and tested."""
        return self.synthesizer.device

    def to(self, device: torch.device | str) -> Self:
        """Move the synthesizer, and the gates that can be moved, to a device and return the whole."""
        self.synthesizer.to(device)
        for gate in self.gates:
            if hasattr(gate, "to"):
                gate.to(device)
        return self

    def save(self, path: object) -> None:
        """Refuse: gates have no file format.

        Raises:
            TypeError: always.
        """
        raise TypeError("GatedSynthesizer has no file format: save its .synthesizer, and construct it again")

    def vary(self, images: Tensor, labels: Any = None, **options: Any) -> Tensor:
        """Return new views of real images, which pass no gate; see :meth:`Synthesizer.vary`."""
        return self.synthesizer.vary(images, labels, **options)

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Draw candidates until each position has one that passes; see :meth:`Synthesizer.draw`.

        Raises:
            ValueError: a position whose candidates are all turned away; names class, gate and rate.
        """
        return self.collect(labels, 1, seed=seed, epoch=epoch, owners=positions)[:, 0]

    def collect(self, labels: Tensor | None, count: int, *, seed: int, epoch: int, owners: Tensor) -> Tensor:
        """Return the first ``count`` candidates of each owner that pass.

        Args:
            labels: ``(N,)`` int64, their classes, or ``None`` without classes.
            count: how many for each.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³².
            owners: ``(N,)`` int64 on the CPU, 0..2⁴³-1: owner o has the candidates o·2²⁰ + i.

        Returns:
            ``(N, count, C, H, W)`` of the synthesizer's dtype on :attr:`device`.
        """
        if len(owners) and int(owners.max()) >= 1 << 43:
            raise ValueError(f"positions of a gated synthesizer must be below 2**43, got {int(owners.max())}")
        # Labels decide which class a failure is named after; everything else is done beside the images.
        classes = torch.zeros_like(owners) if labels is None else to_host(labels)
        collected: Tensor | None = None
        search = _Search(len(owners), count, self.max_candidates)
        while not search.done:
            rows, numbers = search.wave(self.chunk)
            candidates = owners[rows] * _CANDIDATES + numbers
            images = draw_checked(
                self.synthesizer,
                None if labels is None else to_device(classes[rows], self.device),
                seed=seed,
                epoch=epoch,
                positions=candidates,
            )
            passed = self._test(images, classes[rows], seed=seed, epoch=epoch, positions=candidates)
            if collected is None:
                collected = images.new_empty(len(owners) * count, *self.image_shape)
            taken, places = search.take(rows, passed)
            collected[to_device(places, self.device)] = images[to_device(taken, self.device)]
            if (row := search.failed()) is not None:
                where = f"{'position' if count == 1 else 'block'} {int(owners[row])}"
                raise ValueError(self._failure(int(classes[row]), where))
        if collected is None:
            collected = torch.empty(0, *self.image_shape, device=self.device)
        return collected.view(len(owners), count, *self.image_shape)

    def _test(self, images: Tensor, classes: Tensor, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return which candidates pass all gates, ``(N,)`` bool on the CPU."""
        alive = torch.arange(len(images))
        images = convert(images, torch.float32)
        for number, gate in enumerate(self.gates):
            if not len(alive):
                break
            whole = len(alive) == len(images)
            there = to_device(alive, self.device)
            try:
                answer = gate.passes(
                    images if whole else images[there],
                    None if self.num_classes is None else to_device(classes[alive], self.device),
                    seed=seed,
                    epoch=epoch,
                    positions=positions[alive],
                )
            except Exception as error:
                error.add_note(f"It came from the gate {gate!r}, asked about {len(alive)} candidates.")
                raise
            if not isinstance(answer, Tensor) or answer.dtype is not torch.bool or answer.shape != (len(alive),):
                got = f"{tuple(answer.shape)} {answer.dtype}" if isinstance(answer, Tensor) else type(answer).__name__
                raise ValueError(f"{gate!r} must return ({len(alive)},) torch.bool, got {got}")
            passed = to_host(answer)
            self.stats.count(number, classes[alive], passed)
            alive = alive[passed]
        return torch.zeros(len(images), dtype=torch.bool).index_fill_(0, alive, True)

    def _failure(self, label: int, where: str) -> str:
        gate = self.stats.strictest(label)
        seen, passed = int(self.stats.seen[gate, label]), int(self.stats.passed[gate, label])
        of = "" if self.num_classes is None else f" of class {label}"
        if of and self.classes is not None:
            of += f" ({self.classes[label]})"
        return (
            f"no candidate{of} passed in {self.max_candidates} at {where}: the strictest gate, "
            f"{self.gates[gate]!r}, let {passed} of {seen} through ({passed / max(seen, 1):.2%}); loosen it, raise "
            "max_candidates, or ask for other classes"
        )


class _Search:
    """Which candidate of which owner is next: arithmetic on the CPU.

    Args:
        owners: how many.
        count: how many candidates each has to find.
        limit: how many in a row may be turned away.
    """

    def __init__(self, owners: int, count: int, limit: int) -> None:
        self._count, self._limit = count, limit
        self._found = torch.zeros(owners, dtype=torch.int64)
        self._tried = torch.zeros(owners, dtype=torch.int64)
        self._in_vain = torch.zeros(owners, dtype=torch.int64)

    @property
    def done(self) -> bool:
        return bool((self._found == self._count).all())

    def wave(self, chunk: int) -> tuple[Tensor, Tensor]:
        """Return owner and candidate number of the next candidates, those of an owner in order, a full chunk of them.

        Which candidate an owner takes does not depend on how many are drawn at a time.
        """
        pending = (self._found < self._count).nonzero()[:, 0]
        missing = int((self._count - self._found[pending]).sum())
        total = -(-missing // chunk) * chunk
        each = torch.full_like(pending, total // len(pending))
        each[: total % len(pending)] += 1
        # No further than to where the search would fail.
        each = torch.minimum(each, (self._limit - self._in_vain[pending]).clamp(max=_CANDIDATES))
        each = torch.minimum(each, _CANDIDATES - self._tried[pending])
        rows = pending.repeat_interleave(each)
        first = (each.cumsum(0) - each).repeat_interleave(each)
        return rows, self._tried[rows] + torch.arange(len(rows)) - first

    def take(self, rows: Tensor, passed: Tensor) -> tuple[Tensor, Tensor]:
        """Note which candidates of a wave passed; return those to keep, and their places among all that is wanted."""
        owners = len(self._found)
        # The how-manieth that passed of its owner in this wave.
        order = passed.cumsum(0)
        first = torch.searchsorted(rows, rows)
        rank = order - torch.where(first > 0, order[first - 1], 0) + self._found[rows]
        keep = (passed & (rank <= self._count)).nonzero()[:, 0]
        places = rows[keep] * self._count + rank[keep] - 1
        self._found = (self._found + torch.bincount(rows[passed], minlength=owners)).clamp(max=self._count)
        drawn = torch.bincount(rows, minlength=owners)
        self._tried += drawn
        # In vain since the last that passed: all of this wave, or those behind it.
        last = torch.zeros(owners, dtype=torch.int64).scatter_reduce_(
            0, rows[passed], torch.arange(1, len(rows) + 1)[passed], "amax"
        )
        behind = torch.bincount(rows[torch.arange(1, len(rows) + 1) > last[rows]], minlength=owners)
        self._in_vain = torch.where(last > 0, behind, self._in_vain + drawn)
        return keep, places

    def failed(self) -> int | None:
        """Return the first owner whose search is in vain."""
        missing = self._found < self._count
        rows = (missing & ((self._in_vain >= self._limit) | (self._tried >= _CANDIDATES))).nonzero()
        return int(rows[0]) if len(rows) else None


def _names(gates: Sequence[Gate]) -> list[str]:
    """Return the gates' types, numbered where one occurs again."""
    names: list[str] = []
    for gate in gates:
        name, again = type(gate).__name__, sum(type(other) is type(gate) for other in gates[: len(names)])
        names.append(f"{name} {again + 1}" if again else name)
    return names


def draw_checked(
    synthesizer: Synthesizer, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor
) -> Tensor:
    """Return what :meth:`Synthesizer.sample` would, without stalling the device where it is CUDA.

    Raises:
        ValueError: as :func:`check_images`.
    """
    images = synthesizer.draw(labels, seed=seed, epoch=epoch, positions=positions)
    shape = (len(positions), *synthesizer.image_shape)
    if not images.is_cuda or not images.is_floating_point() or tuple(images.shape) != shape:
        return check_images(images, shape, positions)
    low, high = to_host(torch.stack(torch.aminmax(images.detach().flatten(1), dim=1)))
    if not ((low >= -TOLERANCE) & (high <= 1 + TOLERANCE)).all():
        return check_images(images, shape, positions)
    return images.clamp(0, 1)


def to_host(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU; of one on CUDA only this thread waits for it."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))
    done.synchronize()
    return host
