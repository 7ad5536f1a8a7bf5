"""``torchaug-gen experiment``."""

import argparse
import sys
from typing import Any

from torchaug_gen.cli.commands import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "experiment",
        help="measure on your images whether synthetic images help a classifier",
        description=(
            "Train the same small classifier on few real images with and without synthetic ones, on paired seeds and "
            "with equal steps, the synthesizers trained on the same few images, and say what helped and what hurt. "
            "Every cell is kept: the same command goes on where it stopped, and one with more seeds adds theirs."
        ),
    )
    option = parser.add_argument
    option(
        "data",
        metavar="DATA",
        help="folder with one subfolder of images per class, or with such trees train/, test/ and validation/ below it",
    )
    option(
        "--out", metavar="FOLDER", default="experiment", help="folder to write or to go on with (default: %(default)s)"
    )
    option("--quick", action="store_true", help="a first look: 20 per class, three seeds, five arms, shorter trainings")
    option("--per-class", metavar="N", type=int, nargs="+", help="training images per class (default: 10 20 50 100)")
    option("--arms", metavar="ARM", nargs="+", help="what to compare; an unknown name lists them all")
    option("--seeds", metavar="N", type=int, help="how many paired seeds (default: 5; with --quick 3)")
    option("--steps", metavar="N", type=int, help="optimiser steps of each classifier (default: 400; with --quick 200)")
    option(
        "--synthetic-fraction",
        metavar="F",
        type=float,
        help="synthetic items / all items, in (0, 0.5] (default: 0.3)",
    )
    option(
        "--imbalance",
        metavar="X",
        type=float,
        help="make the rarest class so many times rarer than the commonest, and compare macro-F1 (default: 1)",
    )
    option("--image-size", metavar="N", type=int, default=64, help="side in pixels (default: %(default)s)")
    option("--workers", metavar="N", type=int, help="processes (default: one for each core, at most 8; one on a GPU)")
    option("--device", help="where to train, such as cpu or cuda (default: cpu)")
    option("--hours", metavar="X", type=float, help="begin no further cell after so long")
    option("--seed", metavar="N", type=int, help="decides every random number (default: 0)")
    parser.set_defaults(command=_experiment, resumable=True)


def _experiment(arguments: argparse.Namespace) -> int:
    from torchaug_gen.evaluation.experiment.run import run_experiment
    from torchaug_gen.evaluation.experiment.settings import ExperimentSettings

    names = ("per_class", "arms", "seeds", "steps", "synthetic_fraction", "imbalance", "seed", "device")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    given |= {name: tuple(given[name]) for name in ("per_class", "arms") if name in given}
    settings = ExperimentSettings.quick(**given) if arguments.quick else ExperimentSettings(**given)
    try:
        result = run_experiment(
            arguments.data,
            settings,
            out=arguments.out,
            image_size=arguments.image_size,
            workers=arguments.workers,
            seconds=None if arguments.hours is None else 3600 * arguments.hours,
            progress=sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; what is done is in {arguments.out}, and the same command goes on from there"
        ) from None
    print(result.about, *result.notes, *result.verdict, sep="\n")
    # Without any cell there is no picture.
    picture = ", results.png" if result.cells else ""
    print(f"written to {arguments.out}: results.md, results.json{picture}")
    return 0
