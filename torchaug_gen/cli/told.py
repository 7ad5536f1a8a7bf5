"""What the user says about a file that does not say it itself."""

import argparse
import re
from collections.abc import Mapping
from typing import Any

_NAMES = ("latent_dim", "image_shape", "num_classes", "value_range", "steps", "guidance")
_ARGUMENT = re.compile(rf"\b({'|'.join(_NAMES)})=(?=[\s,;:]|$)( in Synthesizer\.from_module)?")


def add_told(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``Synthesizer.load``."""
    group = parser.add_argument_group("what some files do not say themselves")
    option = group.add_argument
    option("--latent-dim", metavar="N", type=int, nargs="+", help="width of the latent vector, or its shape")
    option("--image-shape", metavar=("C", "H", "W"), type=int, nargs=3, help="channels, height and width in pixels")
    option("--num-classes", metavar="N", type=int, help="classes that can be asked for")
    option("--value-range", metavar=("BLACK", "WHITE"), type=float, nargs=2, help="the network's values for these")
    option("--steps", metavar="N", type=int, help="how often a diffusion model runs for an image (default: 50)")
    option("--guidance", metavar="X", type=float, help="weight of a diffusion model's guidance (default: 1, none)")


def told(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the options of ``Synthesizer.load`` that were given."""
    given = {name: value for name in _NAMES if (value := getattr(arguments, name)) is not None}
    if len(given.get("latent_dim", ())) == 1:
        given["latent_dim"] = given["latent_dim"][0]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def as_options(message: str) -> str:
    """Return what an error says of arguments of Python in terms of the options here."""
    message = message.replace("pass trust=True", "pass --trust")
    return _ARGUMENT.sub(lambda match: "--" + match[1].replace("_", "-"), message)
