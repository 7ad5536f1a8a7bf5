"""Records: what the kernels of the CUDA backend are told about each sample, packed into one array of words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.operation import Filter
from torchaug_gen.augment.tables import CODE_BITS, LAST_STATISTIC, Code, Tables

Array = npt.NDArray[Any]

# Positions in the source are whole numbers of 2^-FRACTION pixels, so that the corner of a tile is exact wherever it
# lies; 2^22 pixels are what 64 bits leave room for.
FRACTION = 40
_LARGEST = 2.0**21

# A sample runs through steps: its passes, each cut before every SHARPEN, which needs the finished neighbours of a
# pixel. There is a record for every sample and step; one of height 0 means that the sample needs no such step.
# Addresses are in bytes, strides in values, offsets in words from the beginning of the array.
FIELDS: list[tuple[Any, ...]] = [
    ("source", "i8"),
    ("target", "i8"),
    ("matrix", "i8", (3, 3)),  # in units of 2^-FRACTION
    ("position", "i8"),
    ("slopes", "f4", (3, 2)),  # the first two columns of the matrix
    ("affine", "i4"),
    ("size", "i4", (2,)),
    ("last", "i4"),  # whether the target is the output; others hold float32
    ("source_size", "i4", (2,)),
    ("source_strides", "i4", (3,)),
    ("target_strides", "i4", (3,)),
    ("filter", "i4"),
    ("radius", "f4", (2,)),
    ("taps", "i4", (2,)),
    ("padding", "i4"),
    ("canvas_padding", "i4"),  # negative where the canvas is the image
    ("canvas", "i4", (4,)),
    ("begin", "i4"),  # of the links
    ("end", "i4"),
    ("codes", "i4"),  # offset
    ("arguments", "i4"),  # offset
    ("keys", "i4"),  # offset
    ("epoch", "u4"),
]


@dataclass(frozen=True)
class Sources:
    """Where images are: N addresses, (N, 2) heights and widths, (N, 3) strides in values, and their dtype."""

    addresses: Array
    sizes: Array
    strides: Array
    dtype: torch.dtype

    @classmethod
    def of(cls, images: Tensor | Sequence[Tensor]) -> "Sources":
        """Return where images are."""
        n = len(images)
        if isinstance(images, Tensor):
            step = images.stride(0) * images.element_size()
            addresses = images.data_ptr() + step * np.arange(n, dtype=np.int64)
            sizes = np.broadcast_to(np.array(images.shape[2:], np.int64), (n, 2))
            strides = np.broadcast_to(np.array(images.stride()[1:], np.int64), (n, 3))
        else:
            addresses = np.array([image.data_ptr() for image in images], np.int64)
            sizes = np.array([image.shape[1:] for image in images], np.int64).reshape(n, 2)
            strides = np.array([image.stride() for image in images], np.int64).reshape(n, 3)
        return cls(addresses, sizes, strides, images[0].dtype)


@dataclass(frozen=True)
class Steps:
    """Which pass and which of its links every step of a sample runs, each (N, S); ``count`` is (N,)."""

    count: Array
    of_pass: Array
    begin: Array
    end: Array

    @classmethod
    def of(cls, tables: Tables) -> "Steps":
        """Return the steps that tables take."""
        n, p = len(tables), int(tables.passes.max(initial=1))
        links = tables.links[:, :p]
        sharpens = (_codes(tables)[:, :p] == Code.SHARPEN) & _used(tables)[:, :p]
        if not sharpens.any():
            of_pass = np.broadcast_to(np.arange(p), (n, p))
            return cls(tables.passes, of_pass, np.zeros_like(links), links)
        # In the order of samples, passes and links: a step begins with each pass and with each SHARPEN.
        begins = np.concatenate([np.ones((n, p, 1), bool), sharpens], axis=2)
        begins &= (np.arange(p) < tables.passes[:, None])[:, :, None]
        sample, of, at = np.nonzero(begins)
        count = np.bincount(sample, minlength=n)
        number = np.arange(len(sample)) - np.repeat(np.cumsum(count) - count, count)
        steps = [np.zeros((n, int(count.max())), np.int64) for _ in range(3)]
        first = np.maximum(at - 1, 0)
        # A step ends where the next one begins, the last one of a pass with the links.
        last = links[sample, of].astype(np.int64)
        same = (sample[1:] == sample[:-1]) & (of[1:] == of[:-1])
        last[:-1][same] = first[1:][same]
        for array, values in zip(steps, (of, first, last), strict=True):
            array[sample, number] = values
        return cls(count, *steps)

    @property
    def active(self) -> Array:
        """Whether a sample takes a step at all, (N, S) bool."""
        return np.arange(self.of_pass.shape[1]) < self.count[:, None]


@dataclass(frozen=True)
class Packed:
    """What goes to the device, and what the host must know to launch kernels over it.

    Attributes:
        words: all records, codes, arguments and keys.
        record: words of a record.
        tiles: how many tiles the largest output of each step has.
        barriers: how many statistics the chains of each step need at most.
        equalizes: whether there are histograms among them.
    """

    words: Array
    record: int
    tiles: tuple[int, ...]
    barriers: tuple[int, ...]
    equalizes: bool


@cache
def layout(channels: int, barriers: int) -> np.dtype[Any]:
    """Return the dtype of a record: the fields, the fill value, and where the chain stops for each statistic.

    ``stops`` are 1 + the index of the link, 0 where there is no further statistic.
    """
    fields = [*FIELDS, ("fill", "f4", (channels,)), ("stops", "i4", (barriers,))]
    packed = np.dtype(fields)
    return packed if packed.itemsize % 8 == 0 else np.dtype([*fields, ("unused", "i4")])


@cache
def offset(field: str) -> int:
    """Return at which word of a record a field begins."""
    return int(layout(1, 0).fields[field][1]) // 4  # type: ignore[index]


def pack(
    tables: Tables,
    sources: Sources,
    steps: Steps,
    *,
    targets: Array,
    strides: Sequence[int],
    scratch: Array,
    tile: tuple[int, int],
    buffer: Array | None = None,
) -> Packed:
    """Return records and chains.

    Args:
        tables: what to compute.
        sources: where the images are.
        steps: of the tables.
        targets: ``(N,)`` addresses of the outputs.
        strides: of an output, by channel, row and column, in values.
        scratch: ``(N, S)`` addresses of what steps leave for the next one.
        tile: height and width of the piece of an image that a program computes.
        buffer: uint8 memory to pack into; see :func:`size_of`.
    """
    n, s = steps.of_pass.shape
    channels = tables.fill.shape[-1]
    active = steps.active
    stops = _stops(tables, steps)
    kind = layout(channels, stops.shape[2])
    words = np.empty(size_of(tables, steps), np.uint8) if buffer is None else buffer
    chains = n * s * kind.itemsize
    records: Any = words[:chains].view(kind).reshape(n, s)
    offsets = _put_chains(tables, words[chains:], chains // 4)
    rows = np.arange(n)[:, None]
    size = tables.size[rows, steps.of_pass]
    records["size"] = np.where(active[..., None], size, 0)
    records["stops"] = stops
    _put_ends(records, steps, sources, size, (targets, strides, scratch))
    _put_warps(records, tables, steps, size)
    records["begin"], records["end"] = steps.begin, steps.end
    place = rows * tables.codes.shape[1] + steps.of_pass
    records["codes"] = offsets[0] + place * tables.codes.shape[2]
    records["arguments"] = offsets[1] + place * (tables.codes.shape[2] * tables.arguments.shape[3])
    records["keys"] = offsets[2]
    records["position"] = tables.positions[:, None]
    records["epoch"] = tables.epoch
    tiles = -(-records["size"] // np.array(tile, np.int32))
    return Packed(
        words=words,
        record=kind.itemsize // 4,
        tiles=tuple(tiles.prod(2).max(0).tolist()),
        barriers=tuple((stops > 0).any(0).sum(1).tolist()),
        equalizes=bool((_codes(tables) == Code.EQUALIZE).any()),
    )


def size_of(tables: Tables, steps: Steps) -> int:
    """Return how many bytes :func:`pack` needs."""
    n, s = steps.of_pass.shape
    record = layout(tables.fill.shape[-1], _stops(tables, steps).shape[2]).itemsize
    return n * s * record + tables.codes.nbytes + tables.arguments.nbytes + tables.keys.nbytes


def scratch_sizes(tables: Tables, steps: Steps) -> Array:
    """Return how many values each step of a sample leaves for the next one, ``(N, S)``."""
    size = tables.size[np.arange(len(tables))[:, None], steps.of_pass].astype(np.int64)
    inner = np.arange(size.shape[1]) < steps.count[:, None] - 1
    return np.where(inner, size.prod(2) * tables.fill.shape[-1], 0)


def _codes(tables: Tables) -> Array:
    return tables.codes & ((1 << CODE_BITS) - 1)


def _used(tables: Tables) -> Array:
    """Return which links count, (N, P, K) bool."""
    return np.arange(tables.codes.shape[2]) < tables.links[:, :, None]


def _stops(tables: Tables, steps: Steps) -> Array:
    """Return 1 + the link of every statistic of a step, ``(N, S, D)``, 0 beyond the last one."""
    codes = _codes(tables)[np.arange(len(tables))[:, None], steps.of_pass]
    link = np.arange(codes.shape[2])
    statistic = (codes >= Code.CONTRAST) & (codes <= LAST_STATISTIC) & (codes != Code.SHARPEN)
    statistic &= (link >= steps.begin[..., None]) & (link < steps.end[..., None]) & steps.active[..., None]
    if not statistic.any():
        return np.zeros((*codes.shape[:2], 0), np.int32)
    order = np.cumsum(statistic, axis=2)
    stops = np.zeros((*codes.shape[:2], int(order.max())), np.int32)
    sample, step, at = np.nonzero(statistic)
    stops[sample, step, order[sample, step, at] - 1] = at + 1
    return stops


def _put_chains(tables: Tables, words: Array, first: int) -> list[int]:
    """Copy codes, arguments and keys one after the other; return at which word each begins."""
    offsets, at = [], 0
    for array in (tables.codes, tables.arguments, tables.keys):
        offsets.append(first + at // 4)
        words[at : at + array.nbytes].view(array.dtype)[:] = array.reshape(-1)
        at += array.nbytes
    return offsets


def _put_ends(
    records: Any, steps: Steps, sources: Sources, size: Array, targets: tuple[Array, Sequence[int], Array]
) -> None:
    """Write where each step reads and writes."""
    outputs, strides, scratch = targets
    last = np.arange(size.shape[1]) == steps.count[:, None] - 1
    records["last"] = last
    records["source"][:, 0] = sources.addresses
    records["source_size"][:, 0] = sources.sizes
    records["source_strides"][:, 0] = sources.strides
    records["target"] = np.where(last, outputs[:, None], scratch)
    if size.shape[1] == 1:
        records["target_strides"] = strides
        return
    planar = np.stack([size.prod(2), size[..., 1], np.ones_like(size[..., 0])], axis=2)
    records["target_strides"] = np.where(last[..., None], np.array(strides), planar)
    records["source"][:, 1:] = scratch[:, :-1]
    records["source_size"][:, 1:] = size[:, :-1]
    records["source_strides"][:, 1:] = planar[:, :-1]


def _put_warps(records: Any, tables: Tables, steps: Steps, size: Array) -> None:
    """Write how each step resamples; one that begins with SHARPEN reads its source pixel by pixel."""
    rows, of = np.arange(len(tables))[:, None], steps.of_pass
    source = records["source_size"][..., ::-1]
    matrix, filter_, radius = tables.matrix[rows, of], tables.filter[rows, of], tables.radius[rows, of]
    canvas = tables.canvas[rows, of]
    # A step that begins within a pass.
    still = np.zeros(of.shape, bool)
    still[:, 1:] = of[:, 1:] == of[:, :-1]
    if still.any():
        matrix[still], filter_[still] = np.eye(3), Filter.EXACT
        canvas[still, :2], canvas[still, 2:] = 0, source[still]
    _put_matrices(records, matrix, size)
    # A tent as narrow as can be is bilinear interpolation.
    narrow = (filter_ == Filter.TENT) & (radius <= 1).all(2)
    records["filter"] = np.where(narrow, Filter.BILINEAR, filter_)
    radius = np.where((filter_ == Filter.TENT)[..., None], radius, 1)
    records["radius"], records["taps"] = radius, np.ceil(2 * radius)
    records["padding"] = tables.padding[rows, of]
    whole = (canvas[..., :2] == 0).all(2) & (canvas[..., 2:] == source).all(2)
    records["canvas_padding"] = np.where(whole, -1, tables.canvas_padding[rows, of])
    records["canvas"] = canvas
    records["fill"] = tables.fill[rows, of]


def _put_matrices(records: Any, matrix: Array, size: Array) -> None:
    """Write homographies as whole numbers, scaled so that the denominator is 1 in the middle of the output."""
    middle = np.ones((*size.shape[:2], 3))
    middle[..., :2] = (size[..., ::-1] - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        matrix = matrix / (matrix[..., 2, :] * middle).sum(2)[..., None, None]
        # Beyond the largest number all is outside of any image.
        limits = np.full((*size.shape[:2], 3), _LARGEST)
        limits[..., :2] /= np.maximum(size[..., ::-1], 1)
        limits = limits[..., None, :]
        matrix = np.clip(np.nan_to_num(matrix, nan=_LARGEST), -limits, limits)
    records["matrix"] = np.rint(matrix * 2.0**FRACTION)
    records["slopes"] = matrix[..., :2]
    records["affine"] = (matrix[..., 2, :2] == 0).all(2)
