"""Do synthetic images help where real ones are few? See ``--help``.

The same small classifier is trained on 10, 20, 50 and 100 real images per class, with augmentation, and with synthetic
images beside them from synthesizers that were trained on the same images and no others; see
``torchaug_gen/evaluation/experiment``. Cells run in the order of their importance, seed after seed, and each is kept
when it is done: ``python -m benchmarks.usefulness --hours 8 --data clothing=FOLDER`` may be stopped at any time and
started again, and ``--report`` writes what is there as JSON, and draws the plots from that file.

``--data clothing=FOLDER`` names a folder of photographs with trees train/, validation/ and test/, and
``--data fashion=FOLDER`` one in which ``torchvision.datasets.FashionMNIST`` finds its files.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from torchaug_gen.evaluation.experiment.data import ExperimentData, from_images, load_folder
from torchaug_gen.evaluation.experiment.plot import save_plot
from torchaug_gen.evaluation.experiment.run import collect, run_experiment
from torchaug_gen.evaluation.experiment.settings import ExperimentSettings
from torchaug_gen.synthesis.training.data import TrainingImages

SIZES = (20, 50, 10, 100)
CORE = ("augmented", "real", "vae", "vary-residual", "gated-vary", "oversampled")
# What else may help, and what tells how much there was to gain.
FURTHER = (
    *CORE,
    "gated",
    "extra-real",
    "interpolate-residual",
    "gated-pretrained",
    "vae-half-weight",
    "vae-own-norm",
    "vary",
    "only-vae",
)
SEEDS = 40
# Of the core before anything else is run.
_FIRST = 5


def stages(name: str) -> dict[str, ExperimentSettings]:
    """Return the experiments on some images, the most important first."""
    arms = tuple(arm for arm in FURTHER if name == "clothing" or arm != "gated-pretrained")
    return {
        name: ExperimentSettings(per_class=SIZES, arms=CORE, seeds=5),
        f"{name}, further arms": ExperimentSettings(per_class=(20, 50), arms=arms, seeds=5),
        f"{name}, imbalanced": ExperimentSettings(
            per_class=(50,), arms=("augmented", "oversampled", "vae", "vary-residual"), seeds=5, imbalance=10.0
        ),
        f"{name}, GAN": ExperimentSettings(per_class=(100,), arms=("augmented", "gan"), seeds=5),
    }


def rounds(seeds: int) -> Iterator[tuple[bool, int]]:
    """Yield whether it is the turn of the further stages, and up to which number of seeds: the core is always ahead."""
    yield from ((False, count) for count in range(1, min(_FIRST, seeds) + 1))
    for count in range(1, seeds + 1):
        yield True, count
        yield False, min(_FIRST + 2 * count, seeds)


def load(name: str, folder: Path) -> ExperimentData:
    """Return the images of a folder at 64 px, or Fashion-MNIST's.

    Raises:
        ValueError: neither ``clothing`` nor ``fashion``.
    """
    if name == "clothing":
        return load_folder(folder, image_size=64)
    if name != "fashion":
        raise ValueError(f"--data must be clothing=FOLDER or fashion=FOLDER, got {name}={folder}")
    from torchvision.datasets import FashionMNIST

    parts = [FashionMNIST(str(folder), train=train, download=False) for train in (True, False)]
    train, test = (
        TrainingImages(part.data[:, None], part.targets.to(torch.int64), len(part.classes), tuple(part.classes))
        for part in parts
    )
    return from_images(train, name="Fashion-MNIST", test=test)


def run(data: Mapping[str, ExperimentData], out: Path, *, hours: float, workers: int, seeds: int) -> None:
    """Run cells until the time is up, in the order of :func:`rounds`.

    Args:
        data: images by name.
        out: folder for the cells; a folder for each name.
        hours: after which no further cell begins.
        workers: processes.
        seeds: the most.
    """
    end = time.time() + 3600 * hours
    for further, count in rounds(seeds):
        for name, images in data.items():
            for stage, settings in stages(name).items():
                if (stage != name) != further:
                    continue
                if (left := end - time.time()) <= 0:
                    return
                result = run_experiment(
                    images, replace(settings, seeds=count), out=out / name, workers=workers, seconds=left
                )
                print(f"{stage}, {count} seeds", *result.verdict, sep="\n  ", flush=True)


def report(data: Mapping[str, ExperimentData], out: Path, path: Path | None = None) -> Path:
    """Write what is there as a result file, draw it, and return the file's path."""
    results: dict[str, Any] = {}
    for name, images in data.items():
        for stage, settings in stages(name).items():
            found = collect(images, replace(settings, seeds=SEEDS), out=out / name)
            if found.cells:
                results[stage] = {**found.as_json(), "name": stage}
    path = common.save("usefulness", {"sizes": SIZES}, results, unit="share", packages=["scipy"], path=path)
    plot(path)
    return path


def plot(path: Path) -> list[Path]:
    """Draw a picture of each stage of a result file, from nothing but the file, and return their paths."""
    found = json.loads(path.read_text())["results"]
    return [
        save_plot(stage, path.with_name(f"{path.stem}-{name.replace(', ', '-').replace(' ', '-').lower()}.png"))
        for name, stage in found.items()
    ]


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", metavar="NAME=FOLDER", nargs="+", required=True, help="clothing=FOLDER, fashion=FOLDER, or both")
    option("--out", type=Path, default=Path("usefulness"), help="folder for the cells (default: %(default)s)")
    option("--hours", type=float, default=1.0, help="after which no further cell begins (default: %(default)s)")
    option("--workers", type=int, default=1, help="processes (default: %(default)s)")
    option("--seeds", type=int, default=SEEDS, help="the most (default: %(default)s)")
    option("--report", action="store_true", help="run nothing; write the result file and the plots of what is there")
    option("--result", type=Path, help="result file to write (default: that of this kind of machine)")
    arguments = parser.parse_args()
    pairs = [each.split("=", 1) for each in arguments.data]
    if bad := [each for each in pairs if len(each) != 2]:
        raise ValueError(f"--data must be NAME=FOLDER, got {bad[0][0]}")
    data = {name: load(name, Path(folder)) for name, folder in pairs}
    if arguments.report:
        print(f"written to {report(data, arguments.out, arguments.result)}")
    else:
        run(data, arguments.out, hours=arguments.hours, workers=arguments.workers, seeds=arguments.seeds)


if __name__ == "__main__":
    main()
