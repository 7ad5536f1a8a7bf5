"""``torchaug-gen evaluate``."""

import argparse
import sys
from pathlib import Path

from torchaug_gen.cli.commands import Commands
from torchaug_gen.cli.told import add_told, told


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a synthesizer, and write what was found as a page",
        description=(
            "Measure how real and how varied a synthesizer's images are, look for artefacts and for copies of training "
            "images, and write one HTML page that needs no network. RUN may also be anybody's generator, as in "
            "torchaug-gen sample."
        ),
    )
    option = parser.add_argument
    option("path", metavar="RUN", help="run folder or file")
    option(
        "data",
        metavar="DATA",
        help="the training images: one subfolder per class, tar shards, or such trees train/ and test/ below DATA",
    )
    option(
        "--heldout",
        metavar="FOLDER",
        help="real images that RUN was not trained on (default: DATA/test, if DATA/train)",
    )
    option("--out", metavar="FILE", default="report.html", help="page to write (default: %(default)s)")
    option("--json", metavar="FILE", help="write the figures as JSON too")
    option(
        "--features",
        choices=("effnet", "effnet128", "dct", "random", "clf"),
        help="where distances are measured (default: effnet128 where the extra metrics is installed, else dct)",
    )
    option("--n", metavar="N", type=int, default=1000, help="synthetic images to draw (default: %(default)s)")
    option(
        "--usefulness",
        action="store_true",
        help="train classifiers on synthetic images alone and on real ones, and test them on held-out images (minutes)",
    )
    option("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
    option("--device", default="cpu", help="where networks run, such as cpu or cuda (default: %(default)s)")
    option("--trust", action="store_true", help="allow formats that can execute code when they are loaded")
    option("--sha256", metavar="HEX", help="expected SHA-256 of the file with the network")
    add_told(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from torchaug_gen.evaluation.evaluate import evaluate
    from torchaug_gen.evaluation.learner import LearnerConfig
    from torchaug_gen.evaluation.report_page import load_template
    from torchaug_gen.synthesis.training.settings import TrainingSettings

    # What would keep the page from being written is said before minutes of measuring.
    load_template()
    for path in filter(None, (arguments.out, arguments.json)):
        if Path(path).is_dir():
            raise IsADirectoryError(f"{path} must be a file to write, got a folder")
    device = TrainingSettings(device=arguments.device).local_device
    report = evaluate(
        arguments.path,
        arguments.data,
        heldout=arguments.heldout,
        features=arguments.features,
        n=arguments.n,
        usefulness=LearnerConfig(device=str(device)) if arguments.usefulness else None,
        device=device,
        seed=arguments.seed,
        trust=arguments.trust,
        sha256=arguments.sha256,
        progress=sys.stderr.isatty(),
        **told(arguments),
    )
    report.save_html(arguments.out)
    if arguments.json:
        report.save_json(arguments.json)
    print(report)
    print(f"the page is {arguments.out}")
    return 0
