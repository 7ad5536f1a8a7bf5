"""DALI (Apache-2.0), on the CPU or a GPU, fed HWC uint8 that lies there already."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, math, pipeline_def, types

from benchmarks.contestants.base import (
    AREA,
    ERASED_AREA,
    ERASED_RATIO,
    MEAN,
    RATIO,
    RECIPES,
    STD,
    Batches,
    Contestant,
    Unsupported,
)


class Dali(Contestant):
    """A pipeline that starts a batch when it is asked for it: prefetched ones would be made in others' time."""

    note = (
        "colour in one fixed order, contrast about mid-grey, hue as a rotation of chroma; flip and normalisation are "
        "one pass at the end, erasing before it with the mean colour; grayscale by saturation"
    )

    def __init__(self, recipe: str, batches: Batches, threads: int, *, device: str, dtype: torch.dtype) -> None:
        super().__init__(recipe, batches, threads, device=device, dtype=dtype)
        if recipe not in _PROGRAMS and not RECIPES[recipe].targets:
            raise Unsupported(f"no recipe {recipe}")
        self._images, self._masks = (
            self._there(pixels.transpose(0, 1, 3, 4, 2)) for pixels in (batches.images, batches.masks)
        )
        corners = batches.boxes[..., [0, 1, 2, 1, 2, 3, 0, 3]]
        self._corners = np.ascontiguousarray(corners.reshape(*corners.shape[:2], 12, 2))
        self._turn = self._boxes_turn = 0
        options = {"exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}
        self._pipeline = _pipeline(
            self,
            batch_size=batches.size,
            num_threads=threads,
            device_id=None if device == "cpu" else torch.cuda.current_device(),
            seed=0,
            **options,
        )
        self._pipeline.build()
        self._last: npt.NDArray[np.float32] | None = None

    def _there(self, pixels: npt.NDArray[np.uint8]) -> Any:
        """Return pixels where they are augmented."""
        laid_out = np.ascontiguousarray(pixels)
        return laid_out if self.device == "cpu" else torch.from_numpy(laid_out).to(self.device)

    def feed(self) -> Any:
        """Return the next batch's images, and masks where the recipe has some."""
        turn = self._turn % len(self._images)
        self._turn += 1
        return (self._images[turn], self._masks[turn]) if RECIPES[self.recipe].targets else (self._images[turn],)

    def feed_corners(self) -> Any:
        """Return the corners of the next batch's boxes, which are moved on the CPU."""
        turn = self._boxes_turn % len(self._corners)
        self._boxes_turn += 1
        return self._corners[turn]

    def batch(self, index: int) -> Any:
        """Run the pipeline once."""
        return self._pipeline.run()

    def run(self, indices: range) -> None:
        """Run the pipeline for each batch; a GPU works on streams of DALI's own, which are waited for."""
        super().run(indices)
        if self.device != "cpu":
            torch.cuda.synchronize()

    def images(self) -> npt.NDArray[np.float32]:
        """Return a batch, copied out of the pipeline's memory."""
        results = [np.array(result.as_cpu().as_tensor(), dtype=np.float32) for result in self.batch(0)]
        self._last = results[2] if len(results) == 3 else None
        return results[0]

    def boxes(self) -> npt.NDArray[np.float32] | None:
        """Return the last batch's boxes."""
        return self._last


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _pipeline(contestant: Dali) -> Any:
    # DALI rewrites this function and all that it calls, for its conditionals; it knows no match statement.
    recipe = contestant.recipe
    targets = RECIPES[recipe].targets
    on_cpu = contestant.device == "cpu"
    inputs = fn.external_source(
        source=contestant.feed,
        num_outputs=2 if targets else 1,
        batch=True,
        no_copy=True,
        device="cpu" if on_cpu else "gpu",
    )
    # Of as many bytes as the bfloat16 of the others, which it has not.
    dtype = types.FLOAT if on_cpu else types.FLOAT16
    images = fn.reshape(inputs[0], layout="HWC")
    if targets:
        corners = fn.external_source(source=contestant.feed_corners, batch=True, no_copy=True)
        return _with_targets(images, inputs[1], corners, dtype)
    return _PROGRAMS[recipe](images, dtype)


def _coin(p: float) -> Any:
    return fn.random.coin_flip(probability=p, dtype=types.BOOL)


def _flip() -> Any:
    return fn.random.coin_flip(probability=0.5)


def _uniform(*limits: float) -> Any:
    return fn.random.uniform(range=limits)


def _geometry(images: Any) -> Any:
    images = fn.random_resized_crop(
        images, size=224, random_area=AREA, random_aspect_ratio=RATIO, antialias=False, interp_type=types.INTERP_LINEAR
    )
    if _coin(0.5):
        images = fn.rotate(images, angle=_uniform(-15, 15), keep_size=True, fill_value=0)
    return images


def _colour(images: Any) -> Any:
    if _coin(0.8):
        images = fn.color_twist(
            images,
            brightness=_uniform(0.6, 1.4),
            contrast=_uniform(0.6, 1.4),
            saturation=_uniform(0.6, 1.4),
            hue=_uniform(-36, 36),
        )
    if _coin(0.2):
        images = fn.saturation(images, saturation=0)
    return images


def _erase(images: Any, p: float) -> Any:
    if _coin(p):
        area = _uniform(*ERASED_AREA)
        ratio = math.exp(_uniform(float(np.log(ERASED_RATIO[0])), float(np.log(ERASED_RATIO[1]))))
        shape = math.min(fn.stack(math.sqrt(area * ratio), math.sqrt(area / ratio)), 1.0)
        anchor = (1.0 - shape) * fn.random.uniform(range=(0.0, 1.0), shape=2)
        mean = [round(255 * value) for value in MEAN]
        images = fn.erase(images, anchor=anchor, shape=shape, normalized=True, axis_names="HW", fill_value=mean)
    return images


def _finish(images: Any, dtype: Any, *, flip: Any = 0, normalized: bool = True) -> Any:
    mean, std = (MEAN, STD) if normalized else ((0.0,) * 3, (1.0,) * 3)
    return fn.crop_mirror_normalize(
        images,
        mirror=flip,
        mean=[255 * value for value in mean],
        std=[255 * value for value in std],
        output_layout="CHW",
        dtype=dtype,
    )


def _with_targets(images: Any, masks: Any, corners: Any, dtype: Any) -> Any:
    """Crop, turn and flip images, masks and the four corners of each box alike."""
    start, extent = fn.random_crop_generator(images.shape(), random_area=AREA, random_aspect_ratio=RATIO)
    start, extent = fn.cast(start, dtype=types.FLOAT)[:2], fn.cast(extent, dtype=types.FLOAT)[:2]
    area = {"roi_start": start, "roi_end": start + extent, "size": (224, 224), "antialias": False}
    images = fn.resize(images, interp_type=types.INTERP_LINEAR, **area)
    masks = fn.resize(fn.reshape(masks, layout="HWC"), interp_type=types.INTERP_NN, **area)
    turned, angle = _coin(0.5), _uniform(-15, 15)
    if turned:
        images = fn.rotate(images, angle=angle, keep_size=True, fill_value=0)
        masks = fn.rotate(masks, angle=angle, keep_size=True, fill_value=0, interp_type=types.INTERP_NN)
    flipped = _flip()
    place = fn.stack(start[1], start[0])
    matrix = fn.transforms.translation(offset=-place)
    matrix = fn.transforms.scale(matrix, scale=224.0 / fn.stack(extent[1], extent[0]))
    # On screen, where y points down, rotate turns counter-clockwise for positive angles, and a matrix clockwise.
    matrix = fn.transforms.rotation(matrix, angle=-angle * fn.cast(turned, dtype=types.FLOAT), center=(112, 112))
    sign = 1.0 - 2.0 * fn.cast(flipped, dtype=types.FLOAT)
    matrix = fn.transforms.scale(matrix, scale=fn.stack(sign, 1.0), center=(112, 112))
    moved = fn.reshape(fn.coord_transform(corners, MT=matrix), shape=(3, 4, 2))
    low, high = fn.reductions.min(moved, axes=1), fn.reductions.max(moved, axes=1)
    boxes = math.clamp(fn.cat(low, high, axis=1), 0.0, 224.0)
    return _finish(_erase(_colour(images), 0.25), dtype, flip=flipped), fn.flip(masks, horizontal=flipped), boxes


def _crop_padded(images: Any) -> Any:
    place = fn.cast(math.floor(fn.random.uniform(range=(-4, 5), shape=2)), dtype=types.INT32)
    return fn.slice(images, place, (32, 32), axes=(0, 1), out_of_bounds_policy="pad")


def _rand_augment(images: Any) -> Any:
    from nvidia.dali.auto_aug import rand_augment

    return rand_augment.rand_augment(images, n=2, m=9, fill_value=0)


_PROGRAMS: dict[str, Callable[..., Any]] = {
    "R1": lambda images, dtype: _finish(_erase(_colour(_geometry(images)), 0.25), dtype, flip=_flip()),
    "R2": lambda images, dtype: _finish(_geometry(images), dtype, flip=_flip(), normalized=False),
    "R3": lambda images, dtype: _finish(_colour(images), dtype),
    "R5": lambda images, dtype: _finish(_erase(_crop_padded(images), 0.5), dtype, flip=_flip()),
    "R6": lambda images, dtype: _finish(_rand_augment(images), dtype),
}
