"""FusedStage: operations of one or several libraries that run as one pass over the pixels."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.operation import Filter, Kind, Operation, Size
from torchaug_gen.augment.rows import Key, Rows, join, sizes_text
from torchaug_gen.augment.tables import Tables
from torchaug_gen.batch import Images, to_device

BACKENDS = ("auto", "reference", "cpu", "cuda")

# Sizes that depend on the image's own.
_RAGGED = {Size.SHORT, Size.LONG, Size.PADDED, Size.KORNIA_SHORT, Size.KORNIA_LONG}

Parameters = npt.NDArray[np.float64]

# Bytes that are copied faster than a part is drawn, composed and started for itself: 0.2 ms.
_CHEAP = 1 << 20


class FusedStage:
    """Draw the parameters of a run of operations, compose them, and compute the result in one go.

    Args:
        operations: in order.
        first: the index of the first one among all operations of the program, which its random numbers are named by.
        backend: ``"auto"``, ``"reference"``, ``"cpu"`` or ``"cuda"``.
        interpolation: how to resample, instead of as each operation's module does.
        antialias: whether to antialias where a warp shrinks, instead of as each operation's module does.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        *,
        first: int = 0,
        backend: str = "auto",
        interpolation: Filter | None = None,
        antialias: bool | None = None,
        stream: str = "augment",
    ) -> None:
        self.operations = tuple(operations)
        self.first, self.backend, self.stream = first, backend, stream
        self.interpolation, self.antialias = interpolation, antialias

    @property
    def name(self) -> str:
        """What to call the stage in messages."""
        return " + ".join(operation.name for operation in self.operations)

    @property
    def normalizes(self) -> str | None:
        """The name of an operation that takes values out of [0, 1], or ``None``."""
        return next((operation.name for operation in self.operations if operation.kind is Kind.NORMALIZE), None)

    @property
    def moves(self) -> bool:
        """Whether it moves pixels, and with them masks, boxes and keypoints."""
        return any(operation.is_geometry for operation in self.operations)

    def prefers_one(self, parts: Sequence[Rows]) -> bool:
        """Whether joining the parts first costs less than what each part costs for itself, and changes nothing.

        What all samples of a part share would be shared by the whole batch.
        """
        tensors = [part.images for part in parts if isinstance(part.images, Tensor)]
        if len(parts) < 2 or len(tensors) < len(parts) or tensors[0].device.type != "cpu":
            return False
        if sum(tensor.nbytes for tensor in tensors) > _CHEAP or (torch.is_grad_enabled() and _needs_grad(tensors)):
            return False
        return not any(o.shared or any(gate.shared for gate in o.gates) for o in self.operations)

    def draw(self, part: Rows, key: Key) -> Parameters:
        """Return the parameters of a part's samples, ``(M, D)`` float64, in columns by operation."""
        from torchaug_gen.augment.drawing import draw

        return draw(
            self.operations,
            seed=key.seed,
            epoch=key.epoch,
            positions=_positions(part),
            sizes=sizes_of(part.images),
            channels=channels_of(part.images),
            stream=self.stream,
            first=self.first,
        )

    def compose(self, part: Rows, parameters: Parameters, key: Key) -> Tables:
        """Return what the backends compute for these parameters."""
        from torchaug_gen.augment.composing import compose

        return compose(
            self.operations,
            parameters,
            sizes=sizes_of(part.images),
            channels=channels_of(part.images),
            seed=key.seed,
            epoch=key.epoch,
            positions=_positions(part),
            stream=self.stream,
            first=self.first,
            antialias=self.antialias,
            interpolation=self.interpolation,
        )

    def __call__(
        self,
        parts: Sequence[Rows],
        key: Key,
        *,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
        given: Sequence[Parameters] | None = None,
    ) -> tuple[list[Rows], list[Tables], list[Parameters]]:
        """Compute all parts, straight into one tensor where their results agree in size.

        Args:
            parts: the real rows, then the synthetic ones, where there are any.
            key: what random numbers are keyed by.
            dtype: of the results.
            memory_format: of the results.
            given: parameters to use instead of drawing, one array for each part.

        Returns:
            The parts, joined where they agree in size; what was computed; and the parameters.

        Raises:
            ValueError: images whose sizes come out different, naming the operation.
        """
        parts = [part for part in parts if len(part.rows)] or list(parts[:1])
        for part in parts:
            _check_pixels(part.images, self.operations[0])
        parameters = [self.draw(part, key) for part in parts] if given is None else list(given)
        tables = [self.compose(part, values, key) for part, values in zip(parts, parameters, strict=True)]
        sizes = np.concatenate([_output_sizes(table) for table in tables])
        if not len(sizes):
            return [_emptied(parts[0], self, dtype)], tables, parameters
        if (sizes == sizes[0]).all():
            height, width = sizes[0].tolist()
            joined = self._joined(parts, tables, (height, width), dtype, memory_format)
            return [joined], tables, parameters
        done = [self._apart(part, table, dtype, memory_format) for part, table in zip(parts, tables, strict=True)]
        return join(done), tables, parameters

    def _joined(
        self,
        parts: list[Rows],
        tables: list[Tables],
        size: tuple[int, int],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> Rows:
        """Return all parts in one tensor, in the order of their rows."""
        if len(parts) == 1:
            images = self._run(tables[0], parts[0].images, size, dtype, memory_format)
            return parts[0]._replace(images=images)
        n, first = sum(len(part.rows) for part in parts), parts[0].images
        positions = torch.empty(n, dtype=torch.int64)
        output = _empty(first, (n, channels_of(first), *size), dtype, memory_format)
        for part, table in zip(parts, tables, strict=True):
            positions[part.rows] = part.positions
            self._run(table, part.images, size, dtype, memory_format, out=output, rows=part.rows)
        return Rows(output, torch.arange(n), positions)

    def _apart(self, part: Rows, tables: Tables, dtype: torch.dtype, memory_format: torch.memory_format) -> Rows:
        """Return a part whose results differ in size from the other part's, or from each other's."""
        sizes = [(height, width) for height, width in _output_sizes(tables).tolist()]
        if len(set(sizes)) == 1:
            return part._replace(images=self._run(tables, part.images, sizes[0], dtype, memory_format))
        ragged = [operation for operation in self.operations if _is_ragged(operation)]
        if ragged or isinstance(part.images, Tensor):
            name = ragged[-1].name if ragged else self.name
            raise ValueError(
                f"{name} leaves images of different sizes, {_shown(sizes)}, which make no batch: give it a fixed "
                "(height, width), or add a crop or resize to one behind it"
            )
        images = [
            self._run(select(tables, [index]), image[None], sizes[index], dtype, memory_format)[0]
            for index, image in enumerate(part.images)
        ]
        return part._replace(images=images)

    def _run(
        self,
        tables: Tables,
        images: Images,
        size: tuple[int, int],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        *,
        out: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        backend = choose_backend(self.backend, images, dtype)
        if backend == "cpu":
            from torchaug_gen.augment.backends import cpu

            return cpu.run(tables, images, size=size, dtype=dtype, memory_format=memory_format, out=out, rows=rows)
        if backend == "cuda":
            from torchaug_gen.augment.backends import cuda

            return cuda.run(tables, images, size=size, dtype=dtype, memory_format=memory_format, out=out, rows=rows)
        from torchaug_gen.augment.backends import reference

        computed: Any = reference.run(tables, images, size=size, dtype=dtype)
        result: Tensor = computed.contiguous(memory_format=memory_format)
        if out is None or rows is None:
            return result
        out[to_device(rows, out.device)] = result
        return out


def _needs_grad(tensors: Sequence[Tensor]) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


def choose_backend(asked: str, images: Images, dtype: torch.dtype) -> str:
    """Return which backend computes images, or raise ``ValueError`` where the one asked for cannot."""
    first = images if isinstance(images, Tensor) else images[0]
    wanted = torch.is_grad_enabled() and any(
        image.requires_grad for image in ([first] if isinstance(images, Tensor) else images)
    )
    # The compiled backends compute in float32.
    doubles = first.dtype is torch.float64 or dtype is torch.float64
    if asked == "auto":
        if wanted or doubles or first.device.type not in ("cpu", "cuda") or sys.byteorder != "little":
            return "reference"
        return first.device.type
    if asked not in ("reference", first.device.type):
        raise ValueError(
            f'backend="{asked}" computes {asked} tensors, got images on {first.device}: use backend="auto"'
        )
    if asked != "reference" and wanted:
        raise ValueError(f'backend="{asked}" has no gradients: use backend="reference" or "auto", or detach the images')
    return asked


def sizes_of(images: Images) -> npt.NDArray[np.int32]:
    """Return the height and width of each image, ``(N, 2)``."""
    if isinstance(images, Tensor):
        sizes = np.empty((len(images), 2), np.int32)
        sizes[:] = images.shape[2:]
        return sizes
    return np.array([image.shape[1:] for image in images], np.int32).reshape(-1, 2)


def channels_of(images: Images) -> int:
    """Return the number of channels, or raise ``ValueError`` where images differ in it."""
    if isinstance(images, Tensor):
        return int(images.shape[1])
    numbers = {int(image.shape[0]) for image in images}
    if len(numbers) > 1:
        raise ValueError(f"images of a batch must have as many channels, got {sizes_text(images)}")
    return numbers.pop()


def _check_pixels(images: Images, operation: Operation) -> None:
    """Raise where images have no pixels, which compiled kernels would read nevertheless."""
    sizes = sizes_of(images)
    if (sizes == 0).any():
        index = int((sizes == 0).any(axis=1).argmax())
        height, width = sizes[index].tolist()
        raise ValueError(f"{operation.name} needs images of at least 1×1 pixels, got {height}×{width} at {index}")


def select(tables: Tables, samples: Sequence[int]) -> Tables:
    """Return the tables of some samples."""
    from dataclasses import fields

    whole = {"keys", "epoch"}
    taken = {
        field.name: getattr(tables, field.name) if field.name in whole else getattr(tables, field.name)[list(samples)]
        for field in fields(tables)
    }
    return Tables(**taken)


def _positions(part: Rows) -> npt.NDArray[np.int64]:
    return part.positions.numpy()


def _output_sizes(tables: Tables) -> npt.NDArray[np.int32]:
    return tables.size[np.arange(len(tables)), tables.passes - 1]


def _is_ragged(operation: Operation) -> bool:
    return operation.kind in (Kind.CROP, Kind.RESIZE) and Size(int(operation.constants[0])) in _RAGGED


def _empty(like: Images, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    device = like.device if isinstance(like, Tensor) else like[0].device
    if device.type == "cpu":
        from torchaug_gen.augment.backends import cpu

        return cpu.empty(shape, dtype, memory_format)
    return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)


def _emptied(part: Rows, stage: FusedStage, dtype: torch.dtype) -> Rows:
    """Return what an empty batch becomes: no images of the size that others would have."""
    images = part.images
    if not isinstance(images, Tensor):
        return part
    one = Rows(
        images.new_zeros(1, *images.shape[1:]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    )
    key = Key(0, 0, 0)
    height, width = _output_sizes(stage.compose(one, stage.draw(one, key), key))[0].tolist()
    return part._replace(images=images.new_empty((0, images.shape[1], height, width), dtype=dtype))


def _shown(sizes: Sequence[tuple[int, int]]) -> str:
    shapes = sorted(set(sizes))
    return " and ".join(map(str, shapes[:3])) + (" and others" if len(shapes) > 3 else "")
