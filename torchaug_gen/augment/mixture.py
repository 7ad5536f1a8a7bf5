"""MixtureStage: AugMix over a batch."""

from typing import Any

from torch import Tensor

from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.fused import FusedStage
from torchaug_gen.augment.rows import Key, Rows


class MixtureStage:
    """Run the chains of an :class:`AugMix` and blend them with the images.

    Args:
        mixture: what to run.
        first: the index of its first operation among all operations of the program.
        settings: those of the :class:`FusedStage` of each chain.
    """

    needs_float = True
    # A blend of differently moved images has no one place for a box.
    keeps_places = False

    def __init__(self, mixture: AugMix, *, first: int, **settings: Any) -> None:
        self.mixture = mixture
        self.first = first
        self._chains = [
            FusedStage(mixture.operations, first=first, stream=stream, **settings)
            for stream in mixture.chain_streams(f"augment.{first}")
        ]

    @property
    def name(self) -> str:
        """What to call the stage in messages."""
        return self.mixture.name

    @property
    def reason(self) -> str:
        """Why it cannot move targets."""
        return "it blends images that were moved in different ways"

    def run(self, part: Rows, key: Key, index: int, number: int) -> Rows:
        """Return a part blended with its chains."""
        images = part.images
        if not isinstance(images, Tensor):
            pieces = [
                self.run(Rows(image[None], part.rows[i : i + 1], part.positions[i : i + 1]), key, index, number).images[
                    0
                ]
                for i, image in enumerate(images)
            ]
            return part._replace(images=pieces)
        if not len(images):
            return part
        weights = self.mixture.weights(
            seed=key.seed, epoch=key.epoch, positions=part.positions.numpy(), stream=f"augment.{self.first}"
        )
        chains = []
        for chain in self._chains:
            parts, _, _ = chain([part], key, dtype=images.dtype)
            result = parts[0].images
            if isinstance(result, Tensor):
                chains.append(result)
        return part._replace(images=self.mixture.blend(images, chains, weights))
