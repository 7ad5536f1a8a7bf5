"""``torchaug-gen sample``."""

import argparse
from pathlib import Path

from torchaug_gen.cli.commands import Commands
from torchaug_gen.cli.told import add_told, told


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sample",
        help="draw images from a trained synthesizer into a PNG",
        description=(
            "Draw a grid of images from a run folder, or from anybody's generator: .onnx, a folder of diffusers, "
            "TorchScript, .pt2, and weights whose JSON names a network of this package. Rows are of the classes in "
            "turn."
        ),
    )
    option = parser.add_argument
    option("path", metavar="RUN", help="run folder or file")
    option("--n", metavar="N", type=int, default=64, help="images (default: %(default)s)")
    option("--out", metavar="FILE", default="grid.png", help="PNG to write (default: %(default)s)")
    option("--columns", metavar="N", type=int, default=8, help="images in a row (default: %(default)s)")
    option("--class", dest="label", metavar="CLASS", help="draw this class only: its name, or its number from 0")
    option(
        "--truncation",
        metavar="X",
        type=float,
        default=1.0,
        help="what latents are multiplied by; below 1 gives more usual images, but fewer kinds (default: %(default)s)",
    )
    option("--interpolate", action="store_true", help="let each row go from one latent to another")
    option("--seed", metavar="N", type=int, default=0, help="decides the latents (default: %(default)s)")
    option("--device", default="cpu", help="where to draw, such as cpu or cuda (default: %(default)s)")
    option("--trust", action="store_true", help="allow formats that can execute code when they are loaded")
    option("--sha256", metavar="HEX", help="expected SHA-256 of the file with the network")
    add_told(parser)
    parser.set_defaults(command=_sample)


def _sample(arguments: argparse.Namespace) -> int:
    from torchaug_gen.synthesis import grids
    from torchaug_gen.synthesis.synthesizer import Synthesizer
    from torchaug_gen.synthesis.training.settings import TrainingSettings, check_count

    check_count("n", arguments.n)
    check_count("columns", arguments.columns)
    if not 0 < arguments.truncation < float("inf"):
        raise ValueError(f"truncation must be above 0 and finite, got {arguments.truncation}")
    device = TrainingSettings(device=arguments.device).local_device
    synthesizer = Synthesizer.load(
        arguments.path, device=device, trust=arguments.trust, sha256=arguments.sha256, **told(arguments)
    )
    synthesizer.truncation = arguments.truncation
    label = class_label(arguments.label, synthesizer.classes)
    labels = grids.row_labels(arguments.n, arguments.columns, synthesizer.num_classes, label)
    if arguments.interpolate:
        images = grids.interpolations(
            synthesizer, arguments.n, columns=arguments.columns, labels=labels, seed=arguments.seed
        )
    else:
        images, _ = synthesizer.sample(arguments.n, labels=labels, seed=arguments.seed)
    grids.save_grid(images, Path(arguments.out), columns=arguments.columns)
    print(f"{arguments.n} images in {arguments.out}")
    return 0


def class_label(given: str | None, classes: tuple[str, ...] | None) -> int | None:
    """Return the number of the class that was asked for by name or number."""
    if given is None:
        return None
    if classes is not None and given in classes:
        return classes.index(given)
    try:
        return int(given)
    except ValueError:
        known = "numbers, since its classes have no names" if classes is None else ", ".join(classes)
        raise ValueError(f"class must be one of {known}, got {given!r}") from None
