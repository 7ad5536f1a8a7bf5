"""SyntheticPool: samples that are drawn ahead, kept, and delivered more than once."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.drawing import to_device
from torchaug_gen.synthesis.gates.gate import as_gates
from torchaug_gen.synthesis.gates.gated import GatedSynthesizer, draw_checked, to_host
from torchaug_gen.synthesis.pool.refill import Refill
from torchaug_gen.synthesis.pool.shelf import Shelf
from torchaug_gen.synthesis.pool.stats import PoolStats
from torchaug_gen.synthesis.pool.turnover import Ahead, Turnover, class_shares, divided
from torchaug_gen.synthesis.synthesizer import Synthesizer

# Blocks that a call waits for at a time: what one call asks for beyond them is not held all at once.
_AT_A_TIME = 16


class Block(NamedTuple):
    """What is drawn at a time: samples of one class, in one lane, of one epoch."""

    seed: int
    epoch: int
    lane: int
    label: int
    number: int


class SyntheticPool(Synthesizer):
    """A synthesizer that keeps what it draws and delivers it more than once, as uint8.

    What is delivered is arithmetic, never timing: with ``lanes=1`` and K classes that are asked for alike, class c
    has samples m = 0, 1, 2, … of its own, and position p with label c gets the one that :class:`Turnover` says, with
    laps R = reuse · K. The position is the draw number: a sample is offered to exactly R positions, of which a K-th ask
    for its class, so it is delivered ``reuse`` times on average and never more than R times. Its image is that
    of the synthesizer's position m·K + c; with gates, samples m of a block are the first to pass among the
    candidates of that block. So the image is a function of (seed, epoch, position, label), any batch can be drawn
    anywhere, by any rank or worker, and there is **no state to save**: a pool that resumes draws again what it needs.

    The samples at hand are at most ``capacity``, those included that come into use next. A background thread draws
    them, a full chunk at a time, at the rate at which samples are used. What is not there in time is waited for, and
    counted in :attr:`stats`. The thread ends whenever nothing is left to draw.

    By itself, every epoch begins anew, with one block of each class, and widens what it chooses from as it goes on.
    :class:`torchaug_gen.AugmentedLoader` lets epochs of a known length follow each other instead
    (:meth:`going_on`), so that what is drawn is used as often as was asked in short epochs too.

    Its place is the main process, in :class:`torchaug_gen.AugmentedLoader`: in DataLoader workers it is as right, but
    each of them holds and draws samples for itself.

    Args:
        synthesizer: draws the samples.
        capacity: how many samples to hold, at least two of each class; from 2 · chunk · K on, chunks are full.
        reuse: how often each sample is delivered, on average. 1 means always fresh: every position has a sample of
            its own, the very one that the synthesizer draws there; nothing is held, and no thread runs.
        gates: what samples must pass, one :class:`Gate` or several; see :class:`GatedSynthesizer`.
        weights: ``(K,)`` the shares, all above 0, in which classes will be asked for, such as the class counts
            of the real data for ``labels="match"``. Classes get room and new samples in proportion; without,
            alike, and one that is asked for more often than others is reused more often.
        lanes: in how many separate shares to serve positions: p is in lane p mod lanes. Choose the number of ranks, or
            a multiple: each rank then draws only its own lanes, where otherwise every rank draws all samples.
            ``capacity`` is that of a lane. Another number gives other images; the number of ranks alone does not.
        pinned: hold samples in pinned host memory, and copy those that are asked for to the synthesizer's device.
            Otherwise they lie on the device.
        max_candidates: see :class:`GatedSynthesizer`.

    Attributes:
        stats: what was drawn, delivered, and waited for.

    Raises:
        TypeError: no synthesizer or gate.
        ValueError: a setting out of range.

    Example:
        >>> from torchaug_gen import NoiseSynthesizer
        >>> pool = SyntheticPool(NoiseSynthesizer((1, 8, 8), num_classes=2), capacity=256, reuse=4)
        >>> images, labels = pool.sample(labels=[0, 1, 0], seed=3)
        >>> images.dtype, tuple(images.shape)
        (torch.uint8, (3, 1, 8, 8))
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        *,
        capacity: int,
        reuse: int,
        gates: Any = (),
        weights: Tensor | Sequence[float] | None = None,
        lanes: int = 1,
        pinned: bool = False,
        max_candidates: int = 1024,
    ) -> None:
        if not isinstance(synthesizer, Synthesizer):
            raise TypeError(f"synthesizer must be a Synthesizer, got {type(synthesizer).__name__}")
        for name, value in (("capacity", capacity), ("reuse", reuse), ("lanes", lanes)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        super().__init__(synthesizer.image_shape, num_classes=synthesizer.num_classes)
        self.classes, self.chunk = synthesizer.classes, int(getattr(synthesizer, "chunk", 32))
        self.capacity, self.reuse, self.lanes, self.pinned = capacity, reuse, lanes, pinned
        self.gates = as_gates(gates)
        self._source = (
            GatedSynthesizer(synthesizer, self.gates, max_candidates=max_candidates) if self.gates else synthesizer
        )
        shares = class_shares(weights, self.num_classes or 1)
        self._block, self._blocks = divided(capacity, self.chunk, shares)
        self._turnovers = [
            Turnover.within(count, block=self._block, laps=max(round(reuse / share), 1))
            for count, share in zip(self._blocks, shares.tolist(), strict=True)
        ]
        # Classes of one size turn over alike: without weights there is one kind.
        self._kinds = list(dict.fromkeys(self._turnovers))
        self._kind_of = np.array([self._kinds.index(turnover) for turnover in self._turnovers])
        self._begin()

    @property
    def synthesizer(self) -> Synthesizer:
        """What draws the samples, without gates."""
        return self._source.synthesizer if isinstance(self._source, GatedSynthesizer) else self._source

    @property
    def layout(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """How many samples a block holds; and for each class, the blocks at hand and the laps that a sample stays."""
        laps = (turnover.laps for turnover in self._turnovers)
        return self._block, tuple(zip(self._blocks, laps, strict=True))

    @property
    def device(self) -> torch.device:
        """Where samples are drawn and delivered."""
        return self._source.device

    @property
    def label_device(self) -> torch.device:
        """The CPU: labels decide what is read."""
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """Move synthesizer and gates to a device, give up what is held, and return the pool."""
        self._source.to(device)
        self._begin()
        return self

    def save(self, path: object) -> None:
        """Refuse: a pool has no file format.

        Raises:
            TypeError: always.
        """
        raise TypeError("SyntheticPool has no file format: save its .synthesizer, and construct it again")

    def vary(self, images: Tensor, labels: Any = None, **options: Any) -> Tensor:
        """Return new views of real images, which are not kept; see :meth:`Synthesizer.vary`."""
        return self.synthesizer.vary(images, labels, **options)

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        """Return the samples of these positions ``(N, C, H, W)`` uint8; see :meth:`Synthesizer.draw`."""
        if self.reuse == 1:
            labels = None if labels is None else to_device(labels, self.device)
            images = draw_checked(self._source, labels, seed=seed, epoch=epoch, positions=positions)
            self.stats.drawn += len(images)
            self.stats.delivered += len(images)
            return convert(images, torch.uint8)
        classes = np.zeros(len(positions), dtype=np.int64) if labels is None else to_host(labels).numpy()
        within, lanes = np.divmod(positions.numpy(), self.lanes)
        samples = self._samples(classes, within, seed=seed, epoch=epoch)
        # Asked once: a network goes through its parameters to answer.
        device = self.device
        images = self._gather(samples, classes, lanes, device, seed=seed, epoch=epoch)
        self._look_ahead(classes, within, lanes, seed=seed, epoch=epoch)
        self.stats.delivered += len(images)
        return to_device(images, device)

    def going_on(self, drawn: int) -> Synthesizer:
        """Return this pool as it is in an epoch that follows others, in which ``drawn`` samples were asked for.

        All that went on so are one long epoch 0: position p is its position ``drawn`` + p. What was counted too high
        is drawn in vain, and what was counted too low is delivered once more. With ``reuse=1`` nothing changes.

        Raises:
            ValueError: below 0.
        """
        if drawn < 0:
            raise ValueError(f"drawn must be at least 0, got {drawn}")
        # Whole turns of the lanes, so that each rank keeps its own.
        return self if self.reuse == 1 else _GoingOn(self, -(-drawn // self.lanes) * self.lanes)

    def rest(self) -> None:
        """Stop drawing ahead, after the block that is being drawn; for whoever ends a pass before its end.

        What is held stays, and nothing else changes: the next call goes on.
        """
        self._refill.rest()

    def __getstate__(self) -> dict[str, Any]:
        # What is held, and the thread, belong to this process; another draws the same again.
        return {name: value for name, value in self.__dict__.items() if name not in _OF_THE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def __repr__(self) -> str:
        return f"SyntheticPool({type(self.synthesizer).__name__}, capacity={self.capacity}, reuse={self.reuse})"

    def _begin(self) -> None:
        """Hold nothing yet, and have asked for nothing."""
        self.stats = PoolStats(gates=self._source.stats if isinstance(self._source, GatedSynthesizer) else None)
        self._shelves: dict[int, Shelf] = {}
        self._ahead: dict[int, Ahead] = {}
        self._refill: Refill[Block, Tensor] = Refill(self._draw_block)

    def _samples(self, classes: np.ndarray, within: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
        """Return each position's sample number in its class."""
        if len(self._kinds) == 1:
            return self._kinds[0].samples(within, seed=seed, epoch=epoch)
        samples, kinds = np.empty_like(within), self._kind_of[classes]
        for kind, turnover in enumerate(self._kinds):
            rows = kinds == kind
            samples[rows] = turnover.samples(within[rows], seed=seed, epoch=epoch)
        return samples

    def _gather(
        self,
        samples: np.ndarray,
        classes: np.ndarray,
        lanes: np.ndarray,
        device: torch.device,
        *,
        seed: int,
        epoch: int,
    ) -> Tensor:
        """Return the samples, from the shelves where they are there, and as they come where not."""
        numbers, places = np.divmod(samples, self._block)
        host = self.pinned and device.type == "cuda"
        images = torch.empty(
            len(samples), *self.image_shape, dtype=torch.uint8, device="cpu" if host else device, pin_memory=host
        )
        missing = np.ones(len(samples), dtype=bool)
        for lane, rows in self._by_lane(lanes):
            shelf = self._shelves.get(lane)
            if shelf is None:
                continue
            with self._refill.lock:
                there = shelf.read(
                    images,
                    rows,
                    classes=classes[rows],
                    numbers=numbers[rows],
                    within=places[rows],
                    seed=seed,
                    epoch=epoch,
                )
            missing[rows[there]] = False
        if missing.any():
            rows = np.flatnonzero(missing)
            wanted: dict[Block, list[int]] = {}
            for row, lane, label, number in zip(rows, lanes[rows], classes[rows], numbers[rows], strict=True):
                wanted.setdefault(Block(seed, epoch, int(lane), int(label), int(number)), []).append(int(row))
            self._await(images, wanted, places)
        return images

    def _await(self, images: Tensor, wanted: dict[Block, list[int]], places: np.ndarray) -> None:
        """Fill rows from blocks that are still to be drawn."""
        start = time.perf_counter()
        blocks = list(wanted)
        for first in range(0, len(blocks), _AT_A_TIME):
            # Reversed, because what is asked for last is done first.
            futures: dict[Block, Future[Tensor]] = {}
            for block in reversed(blocks[first : first + _AT_A_TIME]):
                futures[block], known = self._refill.ask(block, urgent=True)
                self.stats.late += known
                self.stats.cold += not known
            for block in blocks[first : first + _AT_A_TIME]:
                drawn = futures.pop(block).result()
                index, rows = torch.from_numpy(places[wanted[block]]), torch.tensor(wanted[block])
                images[to_device(rows, images.device)] = drawn[to_device(index, drawn.device)]
                if drawn.is_cuda:
                    # It was made on the writer's stream, and must outlive what reads it on this one.
                    drawn.record_stream(torch.cuda.current_stream(drawn.device))
        self.stats.waited += time.perf_counter() - start

    def _look_ahead(self, classes: np.ndarray, within: np.ndarray, lanes: np.ndarray, *, seed: int, epoch: int) -> None:
        """Ask for the blocks that come into use next, as many as are due by now."""
        for lane, rows in self._by_lane(lanes):
            shelf, ahead = self._shelves[lane], self._ahead.get(lane)
            if ahead is None or (ahead.seed, ahead.epoch) != (seed, epoch):
                ahead = self._ahead[lane] = Ahead(seed, epoch, self._turnovers)
            asked = np.flatnonzero(np.bincount(classes[rows]))
            for label, number in ahead.due(asked.tolist(), int(within[rows].max())):
                with self._refill.lock:
                    there = shelf.holds(label, number, seed=seed, epoch=epoch)
                if not there:
                    self._refill.ask(Block(seed, epoch, lane, label, number), urgent=False)

    def _by_lane(self, lanes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each lane that positions are in, and their rows."""
        if self.lanes == 1:
            yield 0, np.arange(len(lanes))
            return
        for lane in np.unique(lanes).tolist():
            yield lane, np.flatnonzero(lanes == lane)

    def _draw_block(self, block: Block) -> Tensor:
        """Draw a block, in the background thread, put it on its shelf, and return it."""
        shelf = self._shelves.get(block.lane)
        if shelf is None:
            host = self.pinned and self.device.type == "cuda"
            shape = (self._block, *self.image_shape)
            shelf = Shelf(self._blocks, shape, device="cpu" if host else self.device, pinned=host)
            self._shelves[block.lane] = shelf
        with shelf.aside(self.device):
            images = convert(self._images(block), torch.uint8)
            with self._refill.lock:
                shelf.clear(block.label, block.number)
            images = shelf.write(images, block.label, block.number)
        with self._refill.lock:
            shelf.mark(block.label, block.number, seed=block.seed, epoch=block.epoch)
        self.stats.drawn += self._block
        return images

    def _images(self, block: Block) -> Tensor:
        """Draw the images of a block."""
        classes, source = self.num_classes or 1, self._source
        if isinstance(source, GatedSynthesizer):
            owner = torch.tensor([(block.number * classes + block.label) * self.lanes + block.lane])
            label = None if self.num_classes is None else torch.tensor([block.label])
            return source.collect(label, self._block, seed=block.seed, epoch=block.epoch, owners=owner)[0]
        samples = block.number * self._block + torch.arange(self._block)
        positions = (samples * classes + block.label) * self.lanes + block.lane
        labels = None if self.num_classes is None else torch.full((self._block,), block.label, device=self.device)
        return draw_checked(source, labels, seed=block.seed, epoch=block.epoch, positions=positions)


_OF_THE_PROCESS = {"stats", "_shelves", "_ahead", "_refill"}


class _GoingOn(Synthesizer):
    """A pool in an epoch that goes on from where others have left it."""

    def __init__(self, pool: SyntheticPool, drawn: int) -> None:
        super().__init__(pool.image_shape, num_classes=pool.num_classes)
        self._pool, self._drawn = pool, drawn

    @property
    def synthesizer(self) -> SyntheticPool:
        return self._pool

    @property
    def device(self) -> torch.device:
        return self._pool.device

    @property
    def label_device(self) -> torch.device:
        return self._pool.label_device

    def draw(self, labels: Tensor | None, *, seed: int, epoch: int, positions: Tensor) -> Tensor:
        return self._pool.draw(labels, seed=seed, epoch=0, positions=positions + self._drawn)
