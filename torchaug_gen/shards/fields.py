"""Which files of a sample make an item."""

import re
from collections.abc import Sequence
from typing import NamedTuple

SPECIAL = ("__key__", "__url__")

# Formats whose loading can execute code.
_PICKLED = frozenset({"pkl", "pickle", "pyd", "pth", "pt"})
_EXTENSION = re.compile(r"[^\s./;]+(\.[^\s./;]+)*")


class Field(NamedTuple):
    """One element of an item: the first of its alternatives that a sample holds."""

    alternatives: tuple[str, ...]

    def __str__(self) -> str:
        return ";".join(self.alternatives)


def parse_fields(fields: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields that names such as ``"cls"`` and ``"jpg;png"`` ask for.

    Raises:
        TypeError: a string instead of a sequence of strings.
        ValueError: no field, one that is no file extension, or one that could execute code.
    """
    if isinstance(fields, str):
        raise TypeError(f'fields must be a sequence of names such as ("jpg", "cls"), got the string {fields!r}')
    if not fields:
        raise ValueError('fields must name at least one field, such as ("jpg", "cls"), got none')
    return tuple(Field(tuple(_parse(name, field) for name in field.split(";"))) for field in fields)


def check_extension(name: str, where: str) -> str:
    """Return ``name`` in lower case, or raise ``ValueError`` where it is no extension or a pickled format.

    Args:
        name: an extension without its first dot, such as ``"jpg"`` or ``"seg.png"``.
        where: what to call it in the error.
    """
    name = name.lower()
    if not _EXTENSION.fullmatch(name) or name.startswith("__"):
        raise ValueError(f'{where} must be file extensions such as "jpg" or "seg.png", got {name!r}')
    if not _PICKLED.isdisjoint(name.split(".")):
        raise ValueError(
            f"{where} must not be pickled, because reading pickles can execute code, got {name!r}; "
            "store arrays as npy and other values as json"
        )
    return name


def _parse(name: str, field: str) -> str:
    name = name.strip()
    if name in SPECIAL:
        if name != field.strip():
            raise ValueError(f"fields: {name} is in every sample and has no alternatives, got {field!r}")
        return name
    return check_extension(name, "fields")
