"""Drawing: the random parameters of operations, as pure functions of (seed, epoch, position, operation, draw)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from torchaug_gen import rng
from torchaug_gen.augment.drawing_kernels import NUMBERS, draw_all, offset
from torchaug_gen.augment.operation import CONSTANTS, PARAMETERS, Gate, Kind, Operation, parameter_names

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def draw(
    operations: Sequence[Operation],
    *,
    seed: int,
    epoch: int,
    positions: Int64s,
    sizes: npt.NDArray[np.int32],
    channels: int,
    stream: str = "augment",
    first: int = 0,
) -> Float64s:
    """Draw the parameters of operations for each sample.

    Distributions are those of the libraries that the operations were read from. Where an operation does not act on a
    sample, all of its columns are 0.

    Args:
        operations: in order.
        seed: 0 ≤ seed < 2⁶⁴.
        epoch: 0 ≤ epoch < 2³².
        positions: ``(N,)`` int64 ≥ 0.
        sizes: ``(N, 2)`` int32, height and width of each image, ≥ 1.
        channels: of the images.
        stream: begins the names of the streams.
        first: the index of the first operation among all of the program.

    Returns:
        ``(N, D)`` float64: the columns of all operations one after the other, as
        :func:`torchaug_gen.augment.operation.parameter_names` names them.

    Raises:
        ValueError: a crop larger than an image, more channels to drop than there are, or a seed, epoch or position out
            of range.
    """
    plan = _plan(tuple(operations), channels)
    keys = operation_keys(rng.check_seed(seed), stream, first, len(plan.names))
    positions = np.ascontiguousarray(positions, np.int64)
    sizes = np.ascontiguousarray(sizes, np.int64)
    if len(positions) and positions.min() < 0:
        raise ValueError(f"positions must be at least 0, got {positions.min()}")
    parameters = np.zeros((len(positions), plan.columns[-1]))
    fault = draw_all(
        plan.kinds,
        plan.constants,
        plan.ranges,
        plan.columns,
        plan.chances,
        plan.gates,
        plan.gate_starts,
        plan.numbers,
        keys,
        gate_keys(seed, stream, plan.streams),
        np.uint64(rng.check_epoch(epoch)),
        positions,
        sizes,
        channels,
        np.empty(plan.longest),
        np.empty(plan.longest, np.int64),
        np.empty(len(plan.numbers)),
        parameters,
    )
    if fault >= 0:
        sample, index = divmod(fault, len(plan.names))
        raise ValueError(
            f"{plan.names[index]} cuts a window out of images that are at least as large, but sample {sample} of the "
            f"batch, {tuple(sizes[sample].tolist())} before the first operation, is smaller: resize or pad before it"
        )
    return parameters


@lru_cache(maxsize=256)
def operation_keys(seed: int, stream: str, first: int, count: int) -> npt.NDArray[np.uint32]:
    """Return the Philox keys of the streams of operations ``first``, ``first + 1``, …: ``(count, 2)``, read-only."""
    return _read_only([rng.key(seed, f"{stream}.{first + index}") for index in range(count)])


@lru_cache(maxsize=256)
def gate_keys(seed: int, stream: str, names: tuple[str, ...]) -> npt.NDArray[np.uint32]:
    """Return the Philox keys of gates' streams, ``(len(names), 2)``, read-only."""
    return _read_only([rng.key(seed, f"{stream}.gate.{name}") for name in names])


def _read_only(keys: list[tuple[int, int]]) -> npt.NDArray[np.uint32]:
    array = np.array(keys, np.uint32).reshape(-1, 2)
    array.flags.writeable = False
    return array


def pack_constants(operations: Sequence[Operation]) -> Float64s:
    """Return the constants of operations as rows of one array, with zeros behind the shorter ones."""
    packed = np.zeros((len(operations), max([1, *(len(operation.constants) for operation in operations)])))
    for row, operation in zip(packed, operations, strict=True):
        row[: len(operation.constants)] = operation.constants
    return packed


def column_starts(operations: Sequence[Operation], channels: int) -> Int64s:
    """Return the column each operation starts at, and behind them the number of all columns."""
    widths = [sum(1 for _ in parameter_names(operation.kind, channels)) for operation in operations]
    return np.concatenate(([0], np.cumsum(widths, dtype=np.int64))).astype(np.int64)


@dataclass(frozen=True)
class _Plan:
    """What the kernel must know of operations.

    Attributes:
        names: of the operations, for messages.
        kinds: ``(K,)``.
        constants: ``(K, ·)``.
        ranges: ``(K, ·)``: where the range of each column starts among the constants, -1 where it has none.
        columns: ``(K + 1,)``.
        chances: ``(K, 2)``: probability, and 1 where shared.
        gates: ``(G, 3)``: which of ``numbers`` a gate looks at, low, high.
        gate_starts: ``(K + 1,)``: the first gate of each operation.
        numbers: ``(M, 4)``: which of ``streams``, draw, of, shared.
        streams: the names of gates' streams.
        longest: how many numbers of one stream are kept at a time.
    """

    names: tuple[str, ...]
    kinds: Int64s
    constants: Float64s
    ranges: Int64s
    columns: Int64s
    chances: Float64s
    gates: Float64s
    gate_starts: Int64s
    numbers: Int64s
    streams: tuple[str, ...]
    longest: int


@lru_cache(maxsize=256)
def _plan(operations: tuple[Operation, ...], channels: int) -> _Plan:
    for operation in operations:
        if operation.kind is Kind.CHANNEL_DROPOUT and operation.constants[0] > channels:
            raise ValueError(
                f"{operation.name} drops {operation.constants[0]:.0f} channels, but images have {channels}"
            )
    columns = column_starts(operations, channels)
    widths = np.diff(columns)
    ranges = np.full((len(operations), int(max([1, *widths]))), -1, np.int64)
    for row, operation in zip(ranges, operations, strict=True):
        for column, name in enumerate(PARAMETERS[operation.kind]):
            if f"{name}*4" in CONSTANTS[operation.kind]:
                row[column] = offset(operation.kind, name)
    gates = [gate for operation in operations for gate in operation.gates]
    streams = tuple(dict.fromkeys(gate.stream for gate in gates))
    numbers = list(dict.fromkeys(_number_of(gate, streams) for gate in gates))
    return _Plan(
        names=tuple(operation.name for operation in operations),
        kinds=np.array([operation.kind for operation in operations], np.int64),
        constants=pack_constants(operations),
        ranges=ranges,
        columns=columns,
        chances=np.array([(o.probability, o.shared) for o in operations], np.float64).reshape(-1, 2),
        gates=np.array(
            [(numbers.index(_number_of(gate, streams)), gate.low, gate.high) for gate in gates], np.float64
        ).reshape(-1, 3),
        gate_starts=np.cumsum([0, *(len(operation.gates) for operation in operations)], dtype=np.int64),
        numbers=np.array(numbers, np.int64).reshape(-1, 4),
        streams=streams,
        longest=max(NUMBERS, channels + 4, *(gate.draw + 3 for gate in gates)),
    )


def _number_of(gate: Gate, streams: tuple[str, ...]) -> tuple[int, int, int, int]:
    return streams.index(gate.stream), gate.draw, gate.of, int(gate.shared)
