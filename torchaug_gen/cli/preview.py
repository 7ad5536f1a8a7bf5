"""``torchaug-gen preview``."""

import argparse
from typing import Any

from torchaug_gen.cli.commands import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "preview",
        help="look at what a transform does to your images, in a PNG",
        description=(
            "Write a sheet with a row for each image: as it is, and then as several epochs would deliver it; with "
            "--synthesizer, rows of synthetic images too. Prints how the transform is fused."
        ),
    )
    option = parser.add_argument
    option("data", metavar="DATA", help="folder with one subfolder of images per class")
    option(
        "--transform",
        metavar="WHERE:NAME",
        help=(
            "what AugmentedLoader takes as transform: a name in a Python file, as in pipeline.py:train, or in a module,"
            " as in project.pipeline:train; the code there is run (default: crop, flip and colour jitter)"
        ),
    )
    option("--synthesizer", metavar="RUN", help="run folder, or a file that Synthesizer.load reads")
    option("--n", metavar="N", type=int, default=6, help="images of each kind (default: %(default)s)")
    option("--views", metavar="N", type=int, default=6, help="epochs to show (default: %(default)s)")
    option("--image-size", metavar="N", type=int, default=128, help="side of a cell in pixels (default: %(default)s)")
    option("--out", metavar="FILE", default="preview.png", help="PNG to write (default: %(default)s)")
    option("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
    option("--trust", action="store_true", help="allow synthesizers that can execute code when they are loaded")
    parser.set_defaults(command=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from torchaug_gen.augment.fuse import fuse
    from torchaug_gen.augment.sheet import named, sheet, usual
    from torchaug_gen.folder import JpegFolder
    from torchaug_gen.synthesis.synthesizer import Synthesizer
    from torchaug_gen.synthesis.training.settings import check_count

    for name in ("n", "views"):
        check_count(name, getattr(arguments, name))
    check_count("image_size", arguments.image_size)
    transform = fuse(usual(arguments.image_size) if arguments.transform is None else named(arguments.transform))
    data = JpegFolder(arguments.data)
    # Spread over the folder, and so over the classes.
    images: list[Any] = [data[index * len(data) // arguments.n][0] for index in range(min(arguments.n, len(data)))]
    rows = [images]
    if arguments.synthesizer is not None:
        synthesizer = Synthesizer.load(arguments.synthesizer, trust=arguments.trust)
        rows.append(list(synthesizer.sample(arguments.n, seed=arguments.seed)[0]))
    print(transform.plan())
    said = sheet(
        transform, rows, Path(arguments.out), views=arguments.views, side=arguments.image_size, seed=arguments.seed
    )
    print(f"{sum(map(len, rows))} images in {arguments.views} epochs, in {arguments.out}{said}")
    return 0
