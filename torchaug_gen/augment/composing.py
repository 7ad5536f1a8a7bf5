"""Composing: the parameters of operations as passes over the pixels, one homography and one chain of codes each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from torchaug_gen import rng
from torchaug_gen.augment.composing_kernels import NO_PADDING, STATE, compose_all
from torchaug_gen.augment.drawing import Float64s, Int64s, column_starts, operation_keys, pack_constants
from torchaug_gen.augment.drawing_kernels import offset
from torchaug_gen.augment.operation import Filter, Kind, Operation, Padding
from torchaug_gen.augment.tables import Tables

Int32s = npt.NDArray[np.int32]

# Operations that only work on three channels, and those that leave a single one as it is.
_THREE = (Kind.PLANCKIAN, Kind.RGB_SHIFT)
_ONE_OR_THREE = (Kind.SATURATION, Kind.HUE, Kind.GRAYSCALE)


def compose(
    operations: Sequence[Operation],
    parameters: Float64s,
    *,
    sizes: Int32s,
    channels: int,
    seed: int,
    epoch: int,
    positions: Int64s,
    stream: str = "augment",
    first: int = 0,
    antialias: bool | None = None,
    interpolation: Filter | None = None,
) -> Tables:
    """Turn parameters into what the backends are told.

    Geometry next to each other becomes one homography; a chain of colour and covers runs over its result. Geometry
    behind a chain starts another pass, but for flips, and quarter turns of square images, behind colour, and crops
    behind colour without statistics, which come to the same before it. Composed geometry keeps what one operation moves
    out of the image and a later one brings back.

    Outside of the image a pass follows the rule that its operations agree on. Where they differ, whole-pixel ones
    before (flips, crops, padding) make the canvas that the later rule looks outside of; behind others, a new pass
    starts. A resize or crop that stays inside has no rule, and takes any: at the borders that others fill, resized
    images blend with the fill. Fill shows what an earlier crop has cut off; edges and mirrors are the crop's own.

    Args:
        operations: in order.
        parameters: ``(N, D)`` float64 as :func:`torchaug_gen.augment.drawing.draw` returns them.
        sizes: ``(N, 2)`` int32, height and width of each image.
        channels: of the images.
        seed: of the noise of covers.
        epoch: of the noise of covers.
        positions: ``(N,)`` int64, of the noise of covers.
        stream: begins the names of the streams.
        first: the index of the first operation among all of the program.
        antialias: whether to antialias where a warp shrinks, instead of as each operation says.
        interpolation: how to resample, instead of as each operation says.

    Returns:
        Tables for N samples.

    Raises:
        ValueError: operations that do not fit the number of channels, or parameters of another shape.
    """
    plan = _plan(tuple(operations), channels)
    parameters = np.ascontiguousarray(parameters, np.float64)
    sizes = np.ascontiguousarray(sizes, np.int64)
    _check_parameters(plan, parameters, sizes)
    tables = Tables.empty(len(sizes), plan.passes, plan.links, channels, 0)
    # A copy, because Numba would compile a backend's kernels anew for a read-only array.
    tables.keys = operation_keys(rng.check_seed(seed), stream, first, max(len(plan.names), 1)).copy()
    tables.positions = np.ascontiguousarray(positions, np.int64)
    tables.epoch = rng.check_epoch(epoch)
    fits = compose_all(
        plan.kinds,
        plan.constants,
        plan.columns,
        plan.rules,
        plan.fills,
        parameters,
        sizes,
        channels,
        -1 if interpolation is None else int(interpolation),
        -1 if antialias is None else int(antialias),
        tables.passes,
        tables.size,
        tables.matrix,
        tables.filter,
        tables.radius,
        tables.padding,
        tables.fill,
        tables.canvas,
        tables.canvas_padding,
        tables.links,
        tables.codes,
        tables.arguments,
        np.zeros(STATE, np.int64),
        np.empty(4, np.int64),
        np.empty((2, 4)),
        np.empty((2, 3, 3)),
    )
    if not fits:
        raise RuntimeError(f"{' + '.join(plan.names)} needs more than {plan.passes} passes of {plan.links} links")
    return tables


def output_sizes(operations: Sequence[Operation], parameters: Float64s, sizes: Int32s, channels: int) -> Int32s:
    """Return the height and width that each sample has after the operations, ``(N, 2)`` int32."""
    tables = compose(
        operations,
        parameters,
        sizes=sizes,
        channels=channels,
        seed=0,
        epoch=0,
        positions=np.zeros(len(sizes), np.int64),
    )
    return tables.size[np.arange(len(sizes)), tables.passes - 1]


def passes_bound(operations: Sequence[Operation]) -> int:
    """Return how many passes a sample may need at most."""
    passes = 1
    before: list[Operation] = []
    for slot in _slots(operations):
        passes += any(_may_start(operation, before) for operation in slot if operation.is_geometry)
        before += slot
    return passes


def links_bound(operations: Sequence[Operation]) -> int:
    """Return how many links a chain may have at most."""
    return sum(max(_links(operation) for operation in slot) for slot in _slots(operations))


def _may_start(operation: Operation, before: Sequence[Operation]) -> bool:
    """Return whether geometry may need a pass of its own behind other operations."""
    flips = operation.kind in (Kind.HORIZONTAL_FLIP, Kind.VERTICAL_FLIP)
    if any(other.is_cover if flips else not other.is_geometry for other in before):
        return True
    rule = _rule(operation)
    if flips or rule is None or operation.kind is Kind.RESIZE:
        return False
    rules = {_rule(other) for other in before if other.is_geometry}
    return bool(rules - {rule, None} if rule[0] is Padding.FILL else rules)


def _rule(operation: Operation) -> tuple[Padding, tuple[float, ...]] | None:
    """Return what an operation may show outside of the image."""
    if operation.kind in (Kind.HORIZONTAL_FLIP, Kind.VERTICAL_FLIP, Kind.RESIZE):
        return None
    if operation.kind is Kind.RESIZED_CROP and operation.padding is None:
        return None
    padding = Padding.FILL if operation.padding is None else operation.padding
    return padding, operation.fill if padding is Padding.FILL else ()


def _links(operation: Operation) -> int:
    if operation.is_geometry:
        return 0
    # A clamp may come before colour.
    return 5 if operation.kind is Kind.JITTER else 1 if operation.is_cover else 2


def _slots(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Return operations one by one, and those together of which at most one acts."""
    slots: dict[object, list[Operation]] = {}
    for index, operation in enumerate(operations):
        slots.setdefault(index if operation.choice is None else operation.choice, []).append(operation)
    return list(slots.values())


@dataclass(frozen=True)
class _Plan:
    """What the kernel must know of operations.

    Attributes:
        names: of the operations, for messages.
        kinds: ``(K,)``.
        constants: ``(K, ·)``.
        columns: ``(K + 1,)``.
        rules: ``(K, 4)``: filter, padding or -1, which operation's fill is the same, whether it leaves [0, 1].
        fills: ``(K, C)`` float32.
        passes: how many passes there are at most.
        links: how many links a chain has at most.
    """

    names: tuple[str, ...]
    kinds: Int64s
    constants: Float64s
    columns: Int64s
    rules: Int64s
    fills: npt.NDArray[np.float32]
    passes: int
    links: int


@lru_cache(maxsize=256)
def _plan(operations: tuple[Operation, ...], channels: int) -> _Plan:
    for operation in operations:
        _check_channels(operation, channels)
    fills = np.zeros((max(len(operations), 1), channels), np.float32)
    for row, operation in zip(fills, operations, strict=False):
        row[:] = operation.fill
    rules = [
        (
            operation.filter,
            NO_PADDING if operation.padding is None else operation.padding,
            next(index for index, row in enumerate(fills) if (row == fills[own]).all()),
            min(operation.fill) < 0 or max(operation.fill) > 1,
        )
        for own, operation in enumerate(operations)
    ]
    return _Plan(
        names=tuple(operation.name for operation in operations),
        kinds=np.array([operation.kind for operation in operations], np.int64),
        constants=pack_constants(operations),
        columns=column_starts(operations, channels),
        rules=np.array(rules, np.int64).reshape(-1, 4),
        fills=fills,
        passes=passes_bound(operations),
        links=links_bound(operations),
    )


def _check_channels(operation: Operation, channels: int) -> None:
    kind, constants = operation.kind, operation.constants
    if kind is Kind.JITTER:
        on = any(constants[offset(kind, f"{name}_on")] for name in ("saturation", "hue"))
        allowed: tuple[int, ...] = (1, 3) if on else ()
    else:
        allowed = (3,) if kind in _THREE else (1, 3) if kind in _ONE_OR_THREE else ()
    if allowed and channels not in allowed:
        needed = " or ".join(map(str, allowed))
        raise ValueError(f"{operation.name} works on images with {needed} channels, got {channels}")
    given, what = 1, ""
    if operation.is_geometry:
        given, what = len(operation.fill), "a fill value"
    elif kind is Kind.NORMALIZE:
        given, what = int(constants[0]), "mean and std"
    elif kind is Kind.ERASE:
        given, what = int(constants[offset(kind, "values")]) or 1, "a value"
    if given not in (1, channels):
        raise ValueError(f"{operation.name} has {what} for {given} channels, but images have {channels}")


def _check_parameters(plan: _Plan, parameters: Float64s, sizes: Int32s) -> None:
    expected = (len(sizes), int(plan.columns[-1]))
    if parameters.shape != expected:
        raise ValueError(f"parameters must have the shape {expected}, one row per image, got {parameters.shape}")
