"""The form that every result file has, as JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any

VERSION = 2

_RATE = {"type": "number", "minimum": 0}
_STATISTICS = {
    "type": "object",
    "required": ["median", "quartile_low", "quartile_high", "rounds"],
    "properties": {
        "median": _RATE,
        "quartile_low": _RATE,
        "quartile_high": _RATE,
        "rounds": {"type": "integer", "minimum": 2},
        "ratio_to_baseline": _RATE,
        "ratio_quartile_low": _RATE,
        "ratio_quartile_high": _RATE,
        "too_noisy": {"type": "boolean"},
        "share_of_limit": _RATE,
    },
    "additionalProperties": False,
}
_CASE = {
    "type": "object",
    "required": ["baseline", "summary"],
    "properties": {
        "title": {"type": "string"},
        "unit": {"type": "string"},
        "baseline": {"type": "string"},
        "better": {"enum": ["higher", "lower"]},
        "summary": {"type": "object", "additionalProperties": {"$ref": "#/$defs/statistics"}},
        "absent": {"type": "object", "additionalProperties": {"type": "string"}},
        "notes": {"type": "object", "additionalProperties": {"type": "string"}},
        "limit": {
            "type": "object",
            "required": ["what", "value"],
            "properties": {
                "what": {"type": "string"},
                "value": _RATE,
                "quartile_low": _RATE,
                "quartile_high": _RATE,
            },
        },
    },
}
SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A result file of torchaug_gen's benchmarks",
    "type": "object",
    "required": ["version", "question", "unit", "settings", "machine", "results"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": VERSION},
        "question": {"type": "string", "minLength": 1},
        "unit": {"type": "string", "minLength": 1},
        "settings": {"type": "object"},
        "machine": {
            "type": "object",
            "required": ["processor", "cores", "threads", "gpu", "python", "versions", "commit", "load_average"],
            "properties": {
                "cores": {"type": "integer"},
                "threads": {"type": "integer"},
                "gpu": {"type": ["string", "null"]},
                "versions": {"type": "object", "required": ["torch", "torchaug_gen"]},
                "commit": {"type": ["string", "null"]},
                "load_average": {"type": "array", "items": {"type": "number"}},
            },
        },
        # Cases that were timed are told by their "summary"; what else a benchmark measures has a form of its own.
        "results": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "if": {"type": "object", "required": ["summary"]},
                "then": {"$ref": "#/$defs/case"},
            },
        },
    },
    "$defs": {"statistics": _STATISTICS, "case": _CASE},
}


def validate(document: Any, *, where: str = "the result") -> None:
    """Check that a result file has the form that the plots, tables and comparisons rely on.

    Raises:
        ValueError: it has not; the message names the place.
    """
    import jsonschema

    errors = sorted(jsonschema.Draft202012Validator(SCHEMA).iter_errors(document), key=lambda error: list(error.path))
    if errors:
        place = "/".join(map(str, errors[0].path)) or "the top"
        raise ValueError(f"{where} is malformed at {place}: {errors[0].message}")


def cases(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the timed cases of a result file, with their names."""
    for name, case in document["results"].items():
        if isinstance(case, Mapping) and "summary" in case:
            yield name, case
