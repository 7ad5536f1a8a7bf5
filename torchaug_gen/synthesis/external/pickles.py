"""What :func:`torch.save` wrote, read without unpickling: tensors, numbers, texts and plain containers.

PyTorch's own ``weights_only`` runs no foreign code, but calls what can be made to take all memory: sixty bytes that
call ``bytearray(1 << 30)``, or a dictionary that is copied a million times. Here nothing is called. A pickle is
followed as a list of instructions, each of which makes at most one small object, and a tensor is a view of bytes of the
file.
"""

from __future__ import annotations

import io
import math
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pickletools import genops
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

# Of about 45 per tensor, each making up to 72 bytes.
_MAX_INSTRUCTIONS = 1 << 21
# What is read of a record that may be compressed; 100,000 tensors take 15 MB.
_MAX_PICKLE_BYTES = 32 << 20
_MAX_DIMENSIONS = 64
_MAX_INTEGER_KEY = 1 << 32
# What files of PyTorch before 1.6 begin with.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_NEW: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(ValueError):
    """A file that holds Python objects beside tensors."""


class StorageAt(NamedTuple):
    """Where in the file the values of tensors are."""

    key: str
    dtype: torch.dtype
    start: int = 0


class TensorAt(NamedTuple):
    """A tensor that was not read yet: a view of a storage."""

    storage: StorageAt
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Saved:
    """The content of a file that :func:`torch.save` wrote.

    Args:
        content: the file; an archive must have passed :func:`torchaug_gen.synthesis.external.archives.check_archive`.

    Attributes:
        values: what was saved, with a :class:`TensorAt` in place of each tensor.

    Raises:
        RefusedError: a file that holds more than tensors and plain containers.
        ValueError: a damaged file, as also ``KeyError``, ``IndexError``, ``TypeError`` and what :mod:`zipfile` raises.
    """

    def __init__(self, content: bytes) -> None:
        self._flat: dict[StorageAt, Tensor] = {}
        if content.startswith(b"PK"):
            self.values, self._read = _open_archive(content)
        else:
            self.values, self._read = _open_stream(content)

    def tensor(self, at: TensorAt) -> Tensor:
        """Return a tensor; those of one storage share its memory."""
        whole = at.storage._replace(start=0)
        if whole not in self._flat:
            buffer = self._read(whole)
            self._flat[whole] = (
                torch.frombuffer(buffer, dtype=whole.dtype) if buffer else torch.empty(0).to(whole.dtype)
            )
        flat = self._flat[whole]
        # Strides of 0 make much of little.
        if math.prod(at.size) > len(flat):
            raise ValueError(f"a tensor of shape {at.size} is said to be in a storage of {len(flat)} values")
        return flat.as_strided(at.size, at.stride, at.storage.start + at.offset)


def _open_archive(content: bytes) -> tuple[Any, Callable[[StorageAt], bytearray]]:
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.partition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"it must hold one data.pkl, got {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries:
        _check_byteorder(archive.open(f"{folder}byteorder").read(8).decode())

    def read(storage: StorageAt) -> bytearray:
        entry = entries[f"{folder}data/{storage.key}"]
        buffer = bytearray(entry.file_size)
        with cast(io.BufferedIOBase, archive.open(entry)) as record:
            if record.readinto(buffer) != len(buffer):
                raise ValueError(f"{entry.filename} is shorter than it says")
        return buffer

    return follow(io.BytesIO(archive.open(pickles[0]).read(_MAX_PICKLE_BYTES))), read


def _open_stream(content: bytes) -> tuple[Any, Callable[[StorageAt], bytearray]]:
    """Open what PyTorch before 1.6 wrote: pickles one after the other, then the storages."""
    file = io.BytesIO(content)
    if (magic := follow(file)) != _MAGIC:
        raise ValueError(f"it begins with {_brief(magic)}, which PyTorch did not write")
    if (protocol := follow(file)) != _PROTOCOL:
        raise ValueError(f"its protocol must be {_PROTOCOL}, got {_brief(protocol)}")
    _check_byteorder("little" if follow(file)["little_endian"] else "big")
    dtypes: dict[str, torch.dtype] = {}
    values = follow(file, dtypes)
    buffers = {}
    for key in map(_text, follow(file)):
        size = int.from_bytes(file.read(8), "little", signed=True) * dtypes[key].itemsize
        if not 0 <= size <= len(content) - file.tell():
            raise ValueError(f"the storage {key} says it has {size} bytes, more than there are")
        buffers[key] = bytearray(size)
        file.readinto(buffers[key])
    return values, lambda storage: buffers[storage.key]


def follow(file: io.BytesIO, dtypes: dict[str, torch.dtype] | None = None) -> Any:
    """Follow the instructions of one pickle, and leave the file behind it.

    Args:
        file: begins with the pickle.
        dtypes: receives the type of each storage that is named, by its key.

    Raises:
        RefusedError: an instruction that :func:`torch.save` does not need for tensors and plain containers.
        ValueError: too many instructions, or anything else out of order, as also ``IndexError`` and ``TypeError``.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    dtypes = {} if dtypes is None else dtypes
    for count, (opcode, argument, _) in enumerate(genops(file)):
        if count > _MAX_INSTRUCTIONS:
            raise ValueError(f"it has more than {_MAX_INSTRUCTIONS:,} instructions")
        name = opcode.name
        if name in _NEW:
            stack.append(_NEW[name]())
        elif name in _PLAIN:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[_whole(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[_whole(argument)])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(_cut(stack, marks.pop())))
        elif name in _TUPLES:
            stack.append(tuple(_cut(stack, len(stack) - _TUPLES[name])))
        elif name in ("APPEND", "APPENDS"):
            _append(_cut(stack, marks.pop() if name == "APPENDS" else len(stack) - 1), to=stack[-1])
        elif name in ("SETITEM", "SETITEMS"):
            _set(_cut(stack, marks.pop() if name == "SETITEMS" else len(stack) - 2), to=stack[-1])
        elif name == "GLOBAL":
            stack.append(_named(str(argument)))
        elif name == "REDUCE":
            call, arguments = _cut(stack, len(stack) - 2)
            stack.append(_made(call, arguments))
        elif name == "BUILD":
            # A state dict keeps the versions of its modules as an attribute.
            stack.pop()
            if not isinstance(stack[-1], OrderedDict):
                raise RefusedError(f"it sets attributes of a {type(stack[-1]).__name__}")
        elif name == "BINPERSID":
            storage = _storage(*stack.pop())
            if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
                raise ValueError(f"the storage {storage.key} is of two types")
            stack.append(storage)
        elif name not in ("PROTO", "STOP"):
            raise RefusedError(f"instruction {name}")
    return stack.pop()


def _cut(stack: list[Any], start: int) -> list[Any]:
    """Take what lies on the stack from ``start`` on."""
    if not 0 <= start <= len(stack):
        raise ValueError("an instruction finds too little before it")
    items = stack[start:]
    del stack[start:]
    return items


def _append(items: list[Any], *, to: Any) -> None:
    if type(to) is not list:
        raise ValueError(f"it appends to a {type(to).__name__}")
    to.extend(items)


def _set(items: list[Any], *, to: Any) -> None:
    if type(to) not in (dict, OrderedDict):
        raise ValueError(f"it sets items of a {type(to).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Others may take for ever to hash or to find.
        if not (isinstance(key, str) or (type(key) is int and abs(key) < _MAX_INTEGER_KEY)):
            raise ValueError(f"a key must be a text or a small integer, got a {type(key).__name__}")
        to[key] = value


def _named(name: str) -> torch.dtype | Callable[..., Any]:
    """Return what stands here for a name out of a pickle: a storage's type, or one of the functions below."""
    module, _, attribute = name.partition(" ")
    if module in ("torch", "torch.cuda") and attribute in _STORAGES:
        return _STORAGES[attribute]
    if name not in _CALLS:
        raise RefusedError(f"global {module}.{attribute}"[:200])
    return _CALLS[name]


def _made(call: object, arguments: object) -> Any:
    if call not in _CALLS.values() or not isinstance(arguments, tuple):
        raise ValueError(f"it calls a {type(call).__name__}")
    return call(*arguments)  # type: ignore[operator]


def _storage(kind: object, dtype: object, key: object, *rest: Any) -> StorageAt:
    """Return where a storage is; what follows its key are its device, its length, and what part of another it is."""
    if kind != "storage" or not isinstance(dtype, torch.dtype):
        raise RefusedError(f"a {_brief(kind)} beside tensors")
    view = rest[2] if len(rest) > 2 else None
    return StorageAt(_text(key), dtype, 0 if view is None else _whole(view[1]))


def _empty() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> TensorAt:
    # Behind whether it has a gradient, and its hooks.
    if any(rest[2:]):
        raise RefusedError("a tensor that is the conjugate or the negative of what is stored")
    if not isinstance(storage, StorageAt) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError(f"a tensor lies in a {type(storage).__name__}")
    if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    return TensorAt(storage, _whole(offset), tuple(map(_whole, size)), tuple(map(_whole, stride)))


def _parameter(tensor: object, *_: object) -> TensorAt:
    if not isinstance(tensor, TensorAt):
        raise ValueError(f"a parameter is made of a {type(tensor).__name__}")
    return tensor


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _empty,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"an integer of at least 0 is missing, got a {type(value).__name__}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is missing, got a {type(value).__name__}")
    return value


def _brief(value: object) -> str:
    """Return what to call a value in an error: a tuple of itself twice, sixty times over, takes for ever to print."""
    return repr(value)[:40] if isinstance(value, str | int) else type(value).__name__


def _check_byteorder(order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"its bytes are in {order}-endian order, those of this machine in {sys.byteorder}-endian")
