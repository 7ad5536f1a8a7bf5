"""The form that every result file has, as JSON Schema."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.rounds import FEWEST

VERSION = 2

_FIGURE = {"type": "number"}
_FIGURES = {"type": "object", "additionalProperties": _FIGURE, "minProperties": 1}
_PAIR = {"type": "array", "items": _FIGURE, "minItems": 2, "maxItems": 2}
_WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
_STATISTICS = {
    "type": "object",
    "required": ["median", "quartile_low", "quartile_high", "rounds", "too_noisy"],
    "properties": {
        "median": _FIGURE,
        "quartile_low": _FIGURE,
        "quartile_high": _FIGURE,
        "rounds": {"type": "integer", "minimum": 2},
        "ratio_to_baseline": _FIGURE,
        "ratio_quartile_low": _FIGURE,
        "ratio_quartile_high": _FIGURE,
        "ratio_interval": _PAIR,
        "too_noisy": {"type": "boolean"},
        "share_of_limit": _FIGURE,
    },
    "dependentRequired": {"ratio_to_baseline": ["ratio_quartile_low", "ratio_quartile_high"]},
    "additionalProperties": False,
}
_CASE = {
    "type": "object",
    "required": ["baseline", "summary"],
    "properties": {
        "title": {"type": "string"},
        "unit": {"type": "string"},
        "baseline": {"type": ["string", "null"]},
        "better": {"enum": ["higher", "lower"]},
        "summary": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/statistics"}},
        "absent": _WORDS,
        "notes": _WORDS,
        "limit": {
            "type": "object",
            "required": ["what", "value"],
            "properties": {"what": {"type": "string"}, "value": _FIGURE, "quartile_low": _FIGURE},
            "additionalProperties": _FIGURE,
        },
        # What some benchmarks say beside it, of each contestant.
        "batch_size": {"type": "integer"},
        "rates": {"type": "object", "additionalProperties": {"type": "array", "items": _FIGURE}},
        "measured": {"type": "object"},
        "host_seconds_per_call": _FIGURES,
        "processor_ms": _FIGURES,
        "real_per_second": _FIGURES,
        "by_workers": {"type": "object", "additionalProperties": _FIGURES},
    },
    "additionalProperties": False,
}
_POINT = {
    "type": "object",
    "required": ["x", "median", "quartile_low", "quartile_high"],
    "additionalProperties": _FIGURE,
}
_FIT = {
    "type": "object",
    "required": ["constant", "factor", "exponent", "r_squared", "flat"],
    "properties": {
        "constant": _FIGURE,
        "factor": _FIGURE,
        "exponent": _FIGURE,
        "r_squared": _FIGURE,
        "flat": {"type": "boolean"},
    },
    "additionalProperties": False,
}
_CURVE = {
    "type": "object",
    "required": ["over", "unit", "points", "fit"],
    "properties": {
        "over": {"type": "string"},
        "unit": {"type": "string"},
        "points": {"type": "array", "minItems": 2, "items": _POINT},
        "fit": _FIT,
        "without": _FIGURE,
        "rounds": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
}
_GATE = {
    "type": "object",
    "required": ["agreement"],
    "properties": {
        "agreement": _FIGURE,
        "by_class": {"type": "array", "items": _FIGURE},
        "acceptance": {"type": "array", "items": _FIGURE},
        "cpu_ms_per_image": _FIGURE,
        "drawn": {"type": "integer"},
    },
    "additionalProperties": False,
}
# Distances of a set of images, by name: numbers, and intervals of two.
_DISTANCES = {"type": "object", "minProperties": 1, "additionalProperties": {"type": ["number", "array"]}}
_MODEL = {
    "type": "object",
    "required": ["median", "runs"],
    "properties": {
        "median": _FIGURES,
        "runs": {"type": "array", "minItems": 1, "items": {"allOf": [_DISTANCES, {"required": ["seed"]}]}},
    },
    "additionalProperties": False,
}
_STAGE = {"type": "object", "required": ["name", "rows", "comparisons"]}
# What a process held, or how long something took: figures, with names that say of what.
_MEASURED = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "anyOf": [
            _FIGURE,
            {"type": "string"},
            {"type": "array", "items": _FIGURE, "minItems": 1},
            {"$ref": "#/$defs/measured"},
        ]
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
        "quick": {"type": "boolean"},
        "command": {"type": "string"},
        "seconds": {"type": "number", "minimum": 0},
        "settings": {"type": "object"},
        "machine": {
            "type": "object",
            "required": ["processor", "cores", "threads", "gpu", "python", "versions"],
            "properties": {
                "processor": {"type": "string"},
                "cores": {"type": "integer"},
                "threads": {"type": "integer"},
                "gpu": {"type": ["string", "null"]},
                "python": {"type": "string"},
                "versions": {"type": "object", "required": ["torch", "torchaug_gen"]},
                "commit": {"type": ["string", "null"]},
                "load_average": {"type": "array", "items": {"type": "number"}},
            },
            "additionalProperties": False,
        },
        # What is not named here is told by one of its keys; without one of these it is a case of contestants.
        "results": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "curves": {"type": "object", "minProperties": 1, "additionalProperties": _CURVE},
                "models": {"type": "object", "additionalProperties": _MODEL},
                "real images": _DISTANCES,
                "memory": {"$ref": "#/$defs/measured"},
                "resume": {"$ref": "#/$defs/measured"},
                "drawing": {"$ref": "#/$defs/measured"},
            },
            "additionalProperties": {
                "if": {"type": "object", "required": ["agreement"]},
                "then": _GATE,
                "else": {
                    "if": {"type": "object", "required": ["comparisons"]},
                    "then": _STAGE,
                    "else": {"$ref": "#/$defs/case"},
                },
            },
        },
    },
    "$defs": {"statistics": _STATISTICS, "case": _CASE, "measured": _MEASURED},
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
    for name, case in cases(document):
        _check_case(case, where=f"{where} is malformed at results/{name}", quick=document.get("quick", False))


def _check_case(case: Mapping[str, Any], *, where: str, quick: bool) -> None:
    """Check what JSON Schema cannot say.

    Raises:
        ValueError: a baseline that is no contestant, or medians of too few rounds to be published.
    """
    summary = case["summary"]
    if case["baseline"] is not None and case["baseline"] not in summary:
        raise ValueError(f"{where}/baseline: must be one of {', '.join(summary)}, got {case['baseline']}")
    few = [name for name, row in summary.items() if row["rounds"] < FEWEST]
    if few and not quick:
        raise ValueError(
            f"{where}/summary/{few[0]}: expected {FEWEST} rounds at least, got {summary[few[0]]['rounds']}"
        )


def cases(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the cases of a result file that compare contestants, with their names."""
    for name, case in document["results"].items():
        if isinstance(case, Mapping) and "summary" in case:
            yield name, case
