"""From a sample to an item: the wanted fields, decoded."""

from collections.abc import Sequence
from typing import Any

from torchaug_gen.shards.decode import UndecodableError, decode
from torchaug_gen.shards.fields import SPECIAL, Field
from torchaug_gen.shards.samples import Sample


def item_of(sample: Sample[bytes], fields: Sequence[Field], classes: Sequence[str] | None) -> tuple[Any, ...]:
    """Return the fields of a sample, decoded.

    Args:
        sample: the sample.
        fields: in order.
        classes: names of the classes, where they are known: labels must have one.

    Raises:
        UndecodableError: a field is missing, came twice, or holds something else than it should.
    """
    if sample.repeated is not None:
        raise UndecodableError("repeated", f"field {sample.repeated!r} comes more than once")
    return tuple(_value(sample, field, classes) for field in fields)


def _value(sample: Sample[bytes], field: Field, classes: Sequence[str] | None) -> Any:
    name = field.alternatives[0]
    if name in SPECIAL:
        return sample.key if name == "__key__" else sample.url
    for name in field.alternatives:
        if name in sample.files:
            break
    else:
        held = ", ".join(sample.files) or "none asked for"
        raise UndecodableError("missing", f"field {str(field)!r} is missing, it holds {held}")
    try:
        value = decode(name, sample.files[name])
    except UndecodableError as error:
        raise UndecodableError(error.kind, f"field {name!r}: {error}") from error.__cause__
    if name == "cls" and classes is not None and not 0 <= value < len(classes):
        raise UndecodableError("label", f"field 'cls': expected a class in 0..{len(classes) - 1}, got {value}")
    return value
