"""Weights without code: safetensors and state dicts, compared with a network before it takes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.external.archives import check_archive
from torchaug_gen.synthesis.external.pickles import RefusedError, Saved, TensorAt

_PARALLEL = "module."


def read_safetensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or raise ``ValueError``."""
    try:
        return dict(load_safetensors(content))
    # A header may name a dtype that this PyTorch does not know.
    except (SafetensorError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} cannot be loaded as safetensors, it may be cut short: {error}") from error


def read_state_dict(content: bytes, path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a state dict that :func:`torch.save` wrote; nothing is unpickled.

    Args:
        content: the file.
        path: its name, for errors.
        key: where in the file the state dict is, for a checkpoint that holds several things.

    Raises:
        ValueError: a file that holds more than tensors and plain containers, a damaged one, or a bad ``key``.
    """
    if content.startswith(b"PK"):
        check_archive(content, path)
    try:
        saved = Saved(content)
    except RefusedError as error:
        raise ValueError(
            f"{path} holds more than dense tensors and plain containers, and loading that could execute code: refused, "
            f"nothing was executed. Save the network's state_dict() alone. ({error})"
        ) from None
    except Exception as error:
        raise _damaged(path, error) from error
    values = saved.values
    if key is not None:
        if not isinstance(values, Mapping) or key not in values:
            raise ValueError(f"{path} has no key {key!r}, only {_keys(values)}")
        values = values[key]
    if not _is_state_dict(values):
        raise ValueError(f"{path} must hold a state dict, got {_keys(values)}: key= says where in the file it is")
    try:
        return {name: saved.tensor(at) for name, at in values.items()}
    except Exception as error:
        raise _damaged(path, error) from error


def fill(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Give a network the tensors of a file and return it.

    Args:
        net: somebody's network; its parameters keep their device and dtype.
        tensors: by the names of ``net.state_dict()``, or those with ``module.`` before them, as ``DataParallel`` saves.
        path: where they come from, for errors.

    Raises:
        ValueError: a name or shape that differs, or complex numbers for real ones; nothing is copied then.
    """
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): tensor for name, tensor in tensors.items()}
    own = net.state_dict()
    for describe in (_shape, _number):
        expected, found = ({name: describe(t) for name, t in of.items()} for of in (own, tensors))
        _compare(expected, found, type(net).__name__, path)
    net.load_state_dict(tensors)
    return net


def construct(make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Build a network that takes the tensors of a file for its own.

    It is built without memory first and compared with the file, so that a config with absurd sizes costs nothing.

    Args:
        make: constructs the network.
        tensors: by the names of its state dict.
        path: where they come from, for errors.

    Raises:
        ValueError: a name, shape or dtype that differs, or arguments that the constructor refuses.
    """
    try:
        with torch.device("meta"):
            net = make()
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: the config does not fit the network it names: {error}") from error
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in net.state_dict().items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    _compare(expected, found, type(net).__name__, path)
    net.load_state_dict(tensors, assign=True)
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
        # Buffers that are computed and not saved. Initial weights are drawn in vain, but not from the global generator.
        with torch.device("cpu"), Seeded(0):
            net = make()
        net.load_state_dict(tensors, assign=True)
    return net


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any], network: str, path: Path) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{path}: {network} has {name}: {expected.get(name)}, the file {found.get(name)}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _number(tensor: Tensor) -> str:
    """Return the kind of a tensor's numbers: copying complex ones into real ones would lose a half of each."""
    return "complex" if tensor.is_complex() else "real"


def _is_state_dict(values: object) -> bool:
    return (
        isinstance(values, Mapping)
        and len(values) > 0
        and all(isinstance(name, str) and isinstance(value, TensorAt) for name, value in values.items())
    )


def _keys(values: object) -> str:
    if not isinstance(values, Mapping):
        return f"a {_kind(values)}"
    names = [f"{name!r} ({_kind(value)})" for name, value in list(values.items())[:8]]
    return f"the keys {', '.join(names)}{', …' if len(values) > 8 else ''}"


def _kind(value: object) -> str:
    return "Tensor" if isinstance(value, TensorAt) else type(value).__name__


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be loaded as a state dict, it may be cut short: {error}")
