"""Questions of :mod:`benchmarks.loader` about digits in memory, beside which everything else costs much."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import synthesizers
from benchmarks.data import digits
from benchmarks.passes import Question, Run
from torchaug_gen import AugmentedLoader, fuse
from torchaug_gen.synthesis.pool.pool import SyntheticPool

BATCH = 128
FRACTION = 0.3
_BARE = "bare loader"
# Passes of an eighth of a second: enough of them tell 2 % apart, on a machine that is never quite still.
_MANY = 80


def pipeline() -> nn.Module:
    """Return the Kornia pipeline that all contestants run."""
    import kornia.augmentation as K

    module: nn.Module = K.AugmentationSequential(
        K.RandomAffine(10.0, translate=(0.1, 0.1), scale=(0.9, 1.1)), K.RandomErasing(p=0.25), data_keys=["input"]
    )
    return module


class Digits:
    """The questions, by name.

    Args:
        copies: how often the 5,000 digits are repeated in a pass.
        workers: of each loader; they are kept from pass to pass.
        run: what is done with the batches.
        device: where they are augmented; None where they stay as they are.
    """

    def __init__(self, copies: int, *, workers: int, run: Run, device: str | None) -> None:
        self._data = TensorDataset(*(part.repeat(copies, *[1] * (part.dim() - 1)) for part in digits()))
        self._once = TensorDataset(*digits())
        self._workers, self._run, self._device = workers, run, device
        self._kornia, self._fused = pipeline(), fuse(pipeline())
        self._net = synthesizers.of_digits().accelerate(channels_last=True).to(device or "cpu")

    def questions(self) -> dict[str, Callable[[], Question]]:
        """Return by name what sets a question up."""
        return {"off": self.off, "transform": self.transform, "pool": self.pool, "fresh": self.fresh}

    def off(self) -> Question:
        """Return whether a loader that is wrapped, but off, is the bare one: one process, many short passes."""
        inner = DataLoader(self._once, BATCH, shuffle=True)
        contestants = {_BARE: self._pass(inner), "wrapped, off": self._pass(AugmentedLoader(inner))}
        return Question(_BARE, contestants, rounds=_MANY)

    def transform(self) -> Question:
        """Return what wrapping costs beside the fused transform in the loop, and beside Kornia in the loop."""
        by_hand = self._by_hand(self._bare(), self._seeded)
        contestants = {
            "fused, by hand": lambda: self._run(by_hand()),
            "wrapped": self._pass(self._wrapped()),
            "wrapped, no prefetch": self._pass(self._wrapped(prefetch=0)),
            "Kornia in the loop": self._kornia_in_the_loop(),
        }
        return Question("fused, by hand", contestants, limit=(_BARE, self._pass(self._bare())))

    def pool(self) -> Question:
        """Return what synthetic images out of a pool cost, which draws them on the same cores."""
        pooled = {f"wrapped, pool {FRACTION}, reuse {reuse}": self._pooled(reuse) for reuse in (16, 64)}
        baseline = "wrapped, no synthesis"
        contestants = {baseline: self._pass(self._wrapped()), **pooled}
        return Question(baseline, contestants, real=dict.fromkeys(pooled, 1 - FRACTION))

    def fresh(self) -> Question:
        """Return what drawing afresh costs beside the network that is called in the loop."""
        bare, fraction = self._bare(), {"synthetic_fraction": FRACTION}
        by_hand, ours = f"drawn by hand {FRACTION}", f"wrapped, drawn afresh {FRACTION}"
        contestants = {
            by_hand: lambda: self._run(self._drawing(bare)),
            ours: self._pass(self._wrapped(synthesizer=self._net, **fraction)),
        }
        return Question(by_hand, contestants, real=dict.fromkeys(contestants, 1 - FRACTION))

    def _bare(self) -> DataLoader[Any]:
        workers = self._workers
        return DataLoader(self._data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def _wrapped(self, **options: Any) -> AugmentedLoader[Any]:
        return AugmentedLoader(self._bare(), self._fused, device=self._device, **options)

    def _pass(self, loader: Any) -> Callable[[], int]:
        return lambda: self._run(loader)

    def _pooled(self, reuse: int) -> Callable[[], int]:
        # The pool is filled in the first pass, which warms up.
        pool = SyntheticPool(self._net, capacity=2560, reuse=reuse)
        return self._pass(self._wrapped(synthesizer=pool, synthetic_fraction=FRACTION))

    def _by_hand(
        self, bare: DataLoader[Any], transform: Callable[[Tensor, int], Tensor]
    ) -> Callable[[], Iterator[Any]]:
        def batches() -> Iterator[Any]:
            seen = 0
            for images, labels in bare:
                yield transform(images.to(self._device), seen), labels
                seen += len(labels)

        return batches

    def _seeded(self, images: Tensor, seen: int) -> Tensor:
        batch: Tensor = self._fused(images, positions=torch.arange(seen, seen + len(images)))
        return batch

    def _kornia_in_the_loop(self) -> Callable[[], int]:
        batches = self._by_hand(self._bare(), lambda images, _: self._kornia(images.float() / 255))
        return lambda: self._run(batches())

    def _drawing(self, bare: DataLoader[Any]) -> Iterator[Any]:
        # As one would write it: no seed, and no chunks that make an image independent of its neighbours.
        for images, labels in bare:
            asked = labels[: len(labels) * 3 // 7].to(self._device)
            with torch.no_grad():
                latents = torch.randn(len(asked), self._net.latent_dim, device=self._device)
                drawn = self._net.net(latents, asked).add(1).div(2)
            real = images.to(self._device).float() / 255
            yield self._fused(torch.cat((real, drawn))), torch.cat((labels.to(self._device), asked))
