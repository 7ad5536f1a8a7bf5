"""OpaqueStage: a transform that runs as it is, on the batch, under a seeded generator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchaug_gen import rng
from torchaug_gen.augment.rows import Key, Rows, stack
from torchaug_gen.augment.targets.moving import Target, TargetOptions
from torchaug_gen.augment.targets.probing import Probing, movable
from torchaug_gen.augment.targets.samples import Samples
from torchaug_gen.batch import Images, is_images
from torchaug_gen.pixels import convert
from torchaug_gen.seeded import Seeded

# Base classes of transforms that blend or cut images of a batch into each other.
_BLENDERS = {"kornia.MixAugmentationBaseV2", "torchvision._BaseMixUpCutMix"}
# Base classes of transforms that need targets, and do nothing to images.
_TARGETS_ALONE = {
    "torchvision.ConvertBoundingBoxFormat",
    "torchvision.ClampBoundingBoxes",
    "torchvision.SanitizeBoundingBoxes",
    "torchvision.SetClampingMode",
    "torchvision.ClampKeyPoints",
    "torchvision.SanitizeKeyPoints",
}
# Base classes of transforms that leave every pixel in its place.
_KEEP_PLACES = {
    "kornia.IntensityAugmentationBase2D",
    "torchvision.GaussianBlur",
    "torchvision.JPEG",
    "torchvision.ToDtype",
    "torchvision.ConvertImageDtype",
    "torchvision.RandomPhotometricDistort",
}


class OpaqueStage:
    """Run any Kornia module, torchvision v2 transform or callable on images.

    Args:
        transform: called with ``(N, C, H, W)`` images, returns as many images, whose size may differ.
        reason: why it cannot be fused.

    Raises:
        TypeError: not callable.
        ValueError: a transform that blends images and knows nothing of their labels.
    """

    def __init__(self, transform: Callable[[Any], Any], *, reason: str = "it is not known") -> None:
        if not callable(transform):
            raise TypeError(f"transform must be callable or a list of callables, got {type(transform).__name__}")
        parts = list(_parts(transform))
        for part in parts:
            if _comes_from(part, _BLENDERS):
                raise ValueError(
                    f"transform {type(part).__name__} blends images, but would leave their labels as they are: use "
                    "torchaug_gen.MixUp, which blends both"
                )
            if _comes_from(part, {"torchvision.ToDtype"}) and _drops_the_scale(part):
                raise ValueError(
                    "ToDtype to floating values without scale=True would leave levels of 0..255, but images are in "
                    "[0, 1] here: pass scale=True, with means and fill values to match"
                )
        self.transform, self.reason = transform, reason
        self._needs_bytes = any(_comes_from(part, {"torchvision.JPEG"}) for part in parts)
        leaves = list(_leaves(transform))
        self.needs_targets = all(_comes_from(part, _TARGETS_ALONE) for part in leaves)
        self.keeps_places = all(_comes_from(part, _KEEP_PLACES | _TARGETS_ALONE) for part in leaves)
        # Kornia refuses integers; torchvision takes both, and some of its transforms (JPEG) take only uint8.
        self.needs_float = any(
            base.__module__.split(".")[0] == "kornia" for part in parts for base in type(part).__mro__
        )

    @property
    def name(self) -> str:
        """What to call the transform in messages."""
        return getattr(self.transform, "__name__", type(self.transform).__name__)

    def run(self, part: Rows, key: Key, index: int, number: int) -> Rows:
        """Return a part transformed, as a batch.

        Args:
            part: the rows.
            key: what the batch's random numbers are keyed by.
            index: of the stage in the program.
            number: of the part: real and synthetic rows that could not be joined draw apart.
        """
        if self.needs_targets:
            return part
        return part._replace(images=self(part.images, seed=self._seed(key, index, number)))

    def touches(self, targets: Mapping[Any, Target]) -> bool:
        """Whether targets must go through the transform together with their images."""
        if self.needs_targets:
            return any(target.roles - {"masks"} for target in targets.values())
        return bool(targets) and not self.keeps_places

    def run_beside(
        self, parts: Sequence[Rows], targets: Mapping[Any, Target], key: Key, index: int, options: TargetOptions
    ) -> tuple[list[Rows], dict[Any, Target]]:
        """Return parts transformed together with their targets, as far as the transform's library can.

        torchvision's v2 transforms, and those derived from them, are called for each sample, with its image and dicts
        of its targets; a sample's numbers hang on its position. Kornia's rigid augmentations run on the batch, and say
        where its points and pixels have gone.

        Args:
            parts: the real rows, then the synthetic ones, where there are any.
            targets: columns of all rows.
            key: what random numbers are keyed by.
            index: of the stage in the program.
            options: how targets are moved.

        Raises:
            ValueError: a transform that would leave targets where they are.
        """
        roles = {role for target in targets.values() for role in target.roles}
        if not roles or not any(len(part.rows) for part in parts):
            return [self.run(part, key, index, number) for number, part in enumerate(parts)], dict(targets)
        if _is_v2(self.transform):
            return self._by_sample(parts, targets, key, index, options)
        able = movable(self.transform)
        if not roles <= able:
            left = " and ".join(sorted(roles - able))
            raise ValueError(f"{self.name} may move pixels, but would leave {left} where they are: {self.reason}")
        done, moved = [], Probing(targets, options)
        for number, part in enumerate(parts):
            with torch.no_grad(), Seeded(self._seed(key, index, number)):
                done.append(moved.run(self.transform, part))
        return done, moved.columns()

    def _by_sample(
        self, parts: Sequence[Rows], targets: Mapping[Any, Target], key: Key, index: int, options: TargetOptions
    ) -> tuple[list[Rows], dict[Any, Target]]:
        samples = Samples(targets, box_format=options.box_format)
        done = []
        for part in parts:
            images = []
            for image, row, position in zip(part.images, part.rows.tolist(), part.positions.tolist(), strict=True):
                seed = rng.derive_seed(key.seed, f"transform.{index}.sample", key.epoch, position)
                with torch.no_grad(), Seeded(seed):
                    images.append(self._run_sample(image, row, samples))
            done.append(part._replace(images=stack(images)))
        return done, samples.columns(self.transform)

    def _run_sample(self, image: Tensor, row: int, samples: Samples) -> Tensor:
        from torchvision import tv_tensors

        given: Any = convert(image, torch.uint8) if self._needs_bytes else image
        size = (int(image.shape[-2]), int(image.shape[-1]))
        result = self.transform(tv_tensors.Image(given), *samples.of(row, size))
        moved, *others = result if isinstance(result, list | tuple) else [result]
        if not (isinstance(moved, Tensor) and is_images(moved[None])):
            got = f"{tuple(moved.shape)} {moved.dtype}" if isinstance(moved, Tensor) else type(moved).__name__
            raise TypeError(f"transform {self.name} must return images (C, H, W), uint8 or floating, got {got}")
        samples.put(row, size, others, transform=self.transform)
        plain: Tensor = moved.as_subclass(Tensor)
        return convert(plain, image.dtype) if self._needs_bytes else plain

    @staticmethod
    def _seed(key: Key, index: int, number: int) -> int:
        return rng.derive_seed(key.seed, f"transform.{index}.{number}", key.epoch, key.batch)

    def __call__(self, images: Images, *, seed: int) -> Images:
        """Return the transformed images; a list of images of different sizes goes through one by one.

        Args:
            images: ``(N, C, H, W)`` or a list of ``(C, H, W)``, uint8 or floating in [0, 1].
            seed: where PyTorch's random operations draw from, its global generators being neither read nor moved.
                What a transform draws from Python's or NumPy's generators stays out of reach.

        Raises:
            TypeError: a transform that does not return as many images as it was given.
        """
        with torch.no_grad(), Seeded(seed):
            if isinstance(images, Tensor):
                return self._run(images)
            return [self._run(image[None])[0] for image in images]

    def _run(self, images: Tensor) -> Tensor:
        if not len(images):
            return images
        given = images.dtype
        if self._needs_bytes:
            images = convert(images, torch.uint8)
        result = self.transform(images)
        # Kornia's containers return a list where they were told of more than one data key.
        if isinstance(result, list | tuple) and len(result) == 1:
            result = result[0]
        if not (is_images(result) and len(result) == len(images)):
            got = f"{tuple(result.shape)} {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
            raise TypeError(
                f"transform {self.name} must return images ({len(images)}, C, H, W), uint8 or floating, got {got}"
            )
        # tv_tensors and other subclasses end here: what is delivered is a plain tensor.
        plain: Tensor = result.as_subclass(Tensor)
        return convert(plain, given) if self._needs_bytes else plain


def _parts(transform: Any) -> Iterator[Any]:
    """Yield a transform and all that it is composed of."""
    yield transform
    for part in _inner(transform):
        yield from _parts(part)


def _leaves(transform: Any) -> Iterator[Any]:
    """Yield the transforms that a transform is composed of; what draws their parameters is none."""
    inner = list(_inner(transform))
    if not inner or _comes_from(transform, {"kornia._AugmentationBase"}):
        yield transform
        return
    for part in inner:
        yield from _leaves(part)


def _is_v2(transform: Any) -> bool:
    """Whether a transform, and all that it is composed of, takes torchvision's tv_tensors beside an image."""
    if not _comes_from(transform, {"torchvision.Transform"}):
        return False
    # Transforms of one's own may have networks inside; torchvision's containers call what they hold.
    library = type(transform).__module__.startswith("torchvision.")
    inner = getattr(transform, "transforms", ()) if library else ()
    return all(_is_v2(part) for part in inner)


def _inner(transform: Any) -> Iterator[Any]:
    """Yield what a transform is composed of."""
    if isinstance(transform, nn.Module):
        yield from transform.children()
    # torchvision's containers keep theirs in a plain list.
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        yield from inner


def _drops_the_scale(transform: Any) -> bool:
    dtype = transform.dtype
    images = [dtype] if isinstance(dtype, torch.dtype) else list(dtype.values())
    floating = any(isinstance(found, torch.dtype) and found.is_floating_point for found in images)
    return floating and not transform.scale


def _comes_from(transform: Any, names: set[str]) -> bool:
    return any(f"{base.__module__.split('.')[0]}.{base.__name__}" in names for base in type(transform).__mro__)
