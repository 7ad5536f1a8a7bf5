"""Parse the arguments, run the command, say what went wrong."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from torchaug_gen.cli import demo, evaluate, experiment, preview, sample, shards, train
from torchaug_gen.cli.told import as_options

# What a command needs is imported by the command, and so its defaults are spelled out there.


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process when left out.

    Returns:
        The exit status: 0; 2 for bad input and 1 for a failure, said in a line on stderr; 130 for Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except KeyboardInterrupt as error:
        # A training that stopped in order says how to go on; the demo, which trains too, begins anew.
        said = str(error) if getattr(arguments, "resumable", False) else ""
        print(f"\ntorchaug-gen: {said or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        # Some messages have several lines.
        print(f"torchaug-gen: {as_options(' '.join(str(error).split()))}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchaug-gen",
        description="Augment whole batches and mix in images drawn live from a trained GAN or VAE.",
    )
    parser.add_argument("--version", action="version", version=f"torchaug-gen {version('torchaug_gen')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (demo, train, sample, preview, shards, evaluate, experiment):
        module.add(commands)
    return parser
