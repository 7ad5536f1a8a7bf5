"""The structure of a batch: nested containers around leaves, each found by its path."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor

Key = str | int
Path = tuple[Key, ...]

_PLAIN = {list, tuple, dict, Tensor}


def as_path(key: Any) -> Path:
    """Return a key, an index or a tuple of them as a path."""
    return key if isinstance(key, tuple) else (key,)


def get(batch: Any, path: Path) -> Any:
    """Return the leaf at ``path``; the empty path is the batch itself."""
    for key in path:
        batch = getattr(batch, str(key)) if is_record(batch) and isinstance(key, str) else batch[key]
    return batch


def replace(batch: Any, values: Mapping[Path, Any]) -> Any:
    """Return a copy of a batch, in its own structure and types, with other leaves at the given paths."""
    if () in values:
        return values[()]
    by_key: dict[Key, dict[Path, Any]] = {}
    for (key, *rest), value in values.items():
        by_key.setdefault(key, {})[tuple(rest)] = value
    return _assign(batch, {key: replace(get(batch, (key,)), inner) for key, inner in by_key.items()})


def add(batch: Any, name: str, value: Any) -> Any:
    """Return a copy of a batch with one more field at its top level.

    A dict gains a key, a tuple or list a last element; NamedTuples and dataclasses must have the field already.

    Raises:
        ValueError: a NamedTuple or dataclass without the field, a dict that has the key already, or no structure.
    """
    if is_record(batch):
        if not hasattr(batch, name):
            raise ValueError(f"tag={name!r} needs a field of that name in {type(batch).__name__}: add it to the class")
        return _assign(batch, {name: value})
    if isinstance(batch, Mapping):
        if name in batch:
            raise ValueError(f"tag={name!r} is a field of the batch already; choose another name")
        return _assign(batch, {name: value})
    if isinstance(batch, list | tuple):
        return type(batch)([*batch, value])
    raise ValueError(f"tag={name!r} needs a batch with fields, got a bare {type(batch).__name__}: return (images,)")


def leaves_of(value: Any, path: Path, stop: Callable[[Path, Sequence[Any]], bool]) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of each leaf; a list or tuple for which ``stop`` of both is true is a leaf itself."""
    items: Iterator[tuple[Key, Any]]
    if isinstance(value, Tensor):
        yield path, value
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif is_sequence(value) and not stop(path, value):
        items = iter(enumerate(value))
    else:
        yield path, value
        return
    for key, item in items:
        yield from leaves_of(item, (*path, key), stop)


def never(path: Path, value: Sequence[Any]) -> bool:
    """Say no: a walk over leaves that goes into every list."""
    return False


def is_sequence(value: Any) -> bool:
    """Say whether a value is a list or tuple, and no NamedTuple."""
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def is_record(value: Any) -> bool:
    """Say whether fields are attributes: a NamedTuple or a dataclass."""
    # Most containers are these; telling them apart the long way takes 20 times as long.
    if type(value) in _PLAIN:
        return False
    return hasattr(value, "_fields") or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _assign(container: Any, values: Mapping[Key, Any]) -> Any:
    if not values:
        return container
    if hasattr(container, "_fields"):
        return container._replace(**{str(key): value for key, value in values.items()})
    if isinstance(container, tuple):
        return type(container)([values.get(index, item) for index, item in enumerate(container)])
    if isinstance(container, Mapping) and not isinstance(container, MutableMapping):
        return type(container)({**container, **values})  # type: ignore[call-arg]
    changed = copy.copy(container)
    for key, value in values.items():
        if is_record(changed):
            # A dataclass may be frozen, and its __post_init__ has seen the fields already.
            object.__setattr__(changed, str(key), value)
        else:
            changed[key] = value
    return changed


def last_name(path: Path) -> str:
    """Return the last key of a path that is a name, in lower case, or nothing."""
    return next((key.lower() for key in reversed(path) if isinstance(key, str)), "")


def show(path: Path) -> str:
    """Return a path as it is written in messages."""
    return "the batch" if not path else ".".join(repr(key) if isinstance(key, str) else str(key) for key in path)
