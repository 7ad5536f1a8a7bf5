"""States of somebody else's, which may hold tensors and bytes, as JSON and back."""

import base64
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The key of an object that stands for something JSON has no word for.
_KIND = "__kind__"


def encode(value: Any, *, where: str = "state") -> Any:
    """Return a value in the types of JSON; the result shares no memory with it.

    Args:
        value: None, booleans, numbers, strings, bytes, tensors, arrays, and lists, tuples, sets and dicts of those.
        where: what it is called in errors.

    Raises:
        TypeError: something else is in it, named with its place.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_KIND: "float", "text": repr(value)}
    if isinstance(value, dict):
        return _encode_dict(value, where)
    if isinstance(value, list | tuple | set | frozenset):
        items = [encode(item, where=f"{where}[{number}]") for number, item in enumerate(value)]
        if type(value) is list:
            return items
        kind = next(kind for kind in (list, tuple, frozenset, set) if isinstance(value, kind)).__name__
        return items if kind == "list" else {_KIND: kind, "items": items}
    if isinstance(value, bytes | bytearray):
        return {_KIND: "bytes", "base64": _text(bytes(value))}
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        shape, dtype = list(plain.shape), str(plain.dtype).removeprefix("torch.")
        return {_KIND: "tensor", "dtype": dtype, "shape": shape, "base64": _text(_bytes_of(plain))}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.asarray(value)
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {_KIND: kind, "dtype": array.dtype.str, "shape": list(array.shape), "base64": _text(array.tobytes())}
    raise TypeError(
        f"{where} holds {type(value).__name__}, which cannot be written as JSON: have its state_dict() return numbers, "
        "strings, bytes, tensors, arrays, and lists and dicts of them"
    )


def decode(value: Any) -> Any:
    """Return what :func:`encode` was given; tensors come back on the CPU.

    Raises:
        ValueError: an object of an unknown kind.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    if kind == "dict":
        return {decode(key): decode(item) for key, item in value["items"]}
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(item) for item in value["items"])
    if kind == "float":
        return float(value["text"])
    data = bytearray(base64.b64decode(value.get("base64", "")))
    if kind == "bytes":
        return bytes(data)
    if kind == "tensor":
        dtype = getattr(torch, value["dtype"])
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(value["shape"])
    if kind in ("array", "number"):
        array = np.frombuffer(data, dtype=np.dtype(value["dtype"])).reshape(value["shape"])
        return array if kind == "array" else array[()]
    raise ValueError(f"the state holds an object of kind {kind!r}, which this version does not know")


_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _encode_dict(value: dict[Any, Any], where: str) -> Any:
    if _KIND not in value and all(type(key) is str for key in value):
        return {key: encode(item, where=f"{where}[{key!r}]") for key, item in value.items()}
    items = [[encode(key, where=where), encode(item, where=f"{where}[{key!r}]")] for key, item in value.items()]
    return {_KIND: "dict", "items": items}


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
