"""Do synthetic images help where real ones are few? See ``--help``.

The same small classifier is trained on 10, 20, 50 and 100 real images per class, with augmentation, and with synthetic
images beside them from synthesizers that were trained on the same images and no others; see
``torchaug_gen/evaluation/experiment``. :data:`PLAN` says beforehand which cells are run, with which seeds, and in which
order: block after block, in a block seed after seed, so that a run that is stopped leaves whole pairs.
``python -m benchmarks.usefulness --hours 8 --data clothing=FOLDER fashion=FOLDER`` may be stopped at any time and
started again; ``--take-over FILE`` begins with the cells of a result file, so that nothing is run twice, and
``--report`` writes what is there as JSON, and draws the plots from that file.

``--data clothing=FOLDER`` names a folder of photographs with trees train/, validation/ and test/, and
``--data fashion=FOLDER`` one with the files of the Debian package ``dataset-fashion-mnist``, or one in which
``torchvision.datasets.FashionMNIST`` finds its own.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.synthesis_data import FASHION_CLASSES, fashion_mnist
from torchaug_gen.evaluation.experiment.arms import ARMS
from torchaug_gen.evaluation.experiment.data import ExperimentData, from_images, load_folder
from torchaug_gen.evaluation.experiment.plot import save_plot
from torchaug_gen.evaluation.experiment.result import ExperimentResult
from torchaug_gen.evaluation.experiment.run import collect, run_experiment
from torchaug_gen.evaluation.experiment.settings import VERSION, ExperimentSettings, Group
from torchaug_gen.evaluation.experiment.store import Store
from torchaug_gen.synthesis.training.data import TrainingImages

CORE = ("augmented", "real", "vae", "gated", "vary-residual", "gated-vary", "oversampled")
# What may help a VAE whose photographs are blurred: a batch norm of their own, less weight, a gate that knows more than
# the few images; and varied real images, with the residual that keeps their detail, and without.
REMEDIES = (
    *("augmented", "vae", "vae-own-norm", "vae-half-weight", "vae-fifth-weight"),
    *("gated-pretrained", "vary-residual", "vary"),
)
FURTHER = ("augmented", "vae", "vary-residual", "extra-real")
IMBALANCED = ("augmented", "vae", "vary-residual", "oversampled")


def _seeds(count: int) -> range:
    """Return the numbers of seeds with fresh training sets: on lower ones the experiment itself was worked out."""
    return range(100, 100 + count)


@dataclass(frozen=True)
class Block:
    """Cells that are run one after the other.

    Attributes:
        data: ``clothing`` or ``fashion``.
        per_class: training images of each class.
        arms: names of :data:`torchaug_gen.evaluation.experiment.arms.ARMS`.
        seeds: numbers of the seeds.
        title: what tells its stage from that of the core; the blocks of a stage are a table, and a family of
            comparisons for Holm's correction.
        imbalance: of the classes.
    """

    data: str
    per_class: int
    arms: tuple[str, ...] = CORE
    seeds: range = _seeds(5)
    title: str = ""
    imbalance: float = 1.0

    @property
    def stage(self) -> str:
        """The name of the stage that it belongs to."""
        return f"{self.data}, {self.title}" if self.title else self.data

    @property
    def settings(self) -> ExperimentSettings:
        """What the cells are run with."""
        return ExperimentSettings(
            per_class=(self.per_class,),
            arms=self.arms,
            seeds=len(self.seeds),
            first_seed=self.seeds.start,
            imbalance=self.imbalance,
        )


# Written down before the first of its cells ran, in the order of importance.
PLAN: tuple[Block, ...] = (
    Block("clothing", 20, seeds=_seeds(8)),
    Block("fashion", 20, seeds=_seeds(12)),
    Block("clothing", 100, seeds=_seeds(6)),
    Block("fashion", 10, seeds=_seeds(6)),
    Block("clothing", 100, REMEDIES, title="remedies"),
    Block("clothing", 50),
    Block("fashion", 50),
    # What real images would have gained in the slots of the synthetic ones.
    Block("clothing", 20, FURTHER, title="further real images"),
    Block("fashion", 20, FURTHER, title="further real images"),
    Block("clothing", 20, REMEDIES, title="remedies"),
    Block("fashion", 100),
    Block("clothing", 10),
    Block("fashion", 20, ("augmented", "only-vae", "only-vary-residual"), title="synthetic only"),
    Block("clothing", 100, ("augmented", "chosen"), title="validated"),
    Block("fashion", 50, IMBALANCED, title="imbalanced", imbalance=10.0),
    Block("fashion", 50, ("augmented", "gan"), title="GAN"),
    Block("fashion", 20, ("augmented", "chosen"), title="validated"),
)


def stages(names: Iterable[str]) -> dict[str, list[Block]]:
    """Return the blocks of each stage on some images, in the order of the plan."""
    found: dict[str, list[Block]] = {}
    names = set(names)
    for block in PLAN:
        if block.data in names:
            found.setdefault(block.stage, []).append(block)
    return found


def load(name: str, folder: Path) -> ExperimentData:
    """Return the images of a folder at 64 px, or Fashion-MNIST's.

    Raises:
        ValueError: neither ``clothing`` nor ``fashion``.
    """
    if name == "clothing":
        return load_folder(folder, image_size=64)
    if name != "fashion":
        raise ValueError(f"--data must be clothing=FOLDER or fashion=FOLDER, got {name}={folder}")
    train, test = (
        TrainingImages(part.images, part.labels, len(FASHION_CLASSES), FASHION_CLASSES)
        for part in fashion_mnist(folder)
    )
    return from_images(train, name="Fashion-MNIST", test=test)


def take_over(document: Mapping[str, Any], data: Mapping[str, ExperimentData], out: Path) -> int:
    """Put the cells of a result file where :func:`run` looks for them, and return how many.

    A seed of a block is taken over whole or not at all, so that what is compared was run on one machine.

    Args:
        document: a result file of this benchmark.
        data: images by name; the file's were the same, or their cells are not taken over.
        out: folder for the cells.

    Raises:
        ValueError: a file of an experiment that was done in another way.
    """
    version = document["settings"].get("version")
    if version != VERSION:
        raise ValueError(f"cells must be of version {VERSION} of the experiment to be taken over, got {version}")
    elsewhere = f"{document['machine']['processor']}, torch {document['machine']['versions']['torch']}"
    count = 0
    for stage, blocks in stages(data).items():
        found = document["results"].get(stage, {})
        cells = {(cell["arm"], cell["per_class"], cell["seed"]): cell for cell in found.get("cells", ())}
        for block in blocks:
            images, store = data[block.data], Store(out / block.data / "cells")
            if found.get("data", images.digest) != images.digest:
                continue
            for seed in block.seeds:
                whole = [cells.get((arm, block.per_class, seed)) for arm in block.arms]
                for arm, cell in zip(block.arms, whole, strict=True):
                    if None not in whole and cell is not None:
                        key = block.settings.key(Group(block.per_class, seed), arm, images.digest, images.side)
                        store.put(key, {"machine": elsewhere, **cell})
                        count += 1
    return count


def run(data: Mapping[str, ExperimentData], out: Path, *, hours: float, workers: int) -> None:
    """Run what is left of the plan, block after block, until the time is up.

    Args:
        data: images by name.
        out: folder for the cells; a folder for each name.
        hours: after which no further cell begins.
        workers: processes.
    """
    end = time.time() + 3600 * hours
    for block in PLAN:
        left = end - time.time()
        if block.data not in data or left <= 0:
            continue
        images, folder = data[block.data], out / block.data
        if not collect(images, block.settings, out=folder).missing:
            continue
        result = run_experiment(images, block.settings, out=folder, workers=workers, seconds=left)
        print(f"{block.stage}, {block.per_class} per class", *result.verdict, sep="\n  ", flush=True)


def report(data: Mapping[str, ExperimentData], out: Path, path: Path | None = None) -> Path:
    """Write what is there as a result file, draw it, and return the file's path."""
    results: dict[str, Any] = {}
    for stage, blocks in stages(data).items():
        found = together(
            stage, blocks, [collect(data[block.data], block.settings, out=out / block.data) for block in blocks]
        )
        # Of what is planned, a stage may have the arms that it shares with others alone.
        if found.comparisons:
            results[stage] = found.as_json() | {"data": data[blocks[0].data].digest}
    about = {"version": VERSION, "plan": _said_plan(data), "machines": _machines(results)}
    path = common.save("usefulness", about, results, unit="share", packages=["scipy"], path=path)
    plot(path)
    return path


def together(stage: str, blocks: Sequence[Block], results: Sequence[ExperimentResult]) -> ExperimentResult:
    """Return the results of a stage's blocks as one, and as one family of comparisons: all that are planned."""
    planned = {(arm, block.per_class) for block in blocks for arm in block.arms if ARMS[arm].baseline is not None}
    cells = tuple(cell for result in results for cell in result.cells)
    sizes = sorted({block.per_class for block in blocks})
    return replace(
        results[0],
        name=stage,
        cells=cells,
        missing=sum(result.missing for result in results),
        settings=dict(results[0].settings) | {"per_class": sizes},
        family=len(planned),
    )


def _said_plan(names: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "per_class": block.per_class, "arms": block.arms, "seeds": list(block.seeds)}
        for stage, blocks in stages(names).items()
        for block in blocks
    ]


def _machines(results: Mapping[str, Any]) -> dict[str, int]:
    """Return how many cells were run on which machine; a cell may be in several stages."""
    cells = {json.dumps(cell, sort_keys=True): cell for stage in results.values() for cell in stage["cells"]}
    return dict(Counter(cell.get("machine", "unknown") for cell in cells.values()))


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
    option("--take-over", type=Path, metavar="FILE", help="begin with the cells of this result file")
    option("--report", action="store_true", help="run nothing; write the result file and the plots of what is there")
    option("--result", type=Path, help="result file to write (default: that of this kind of machine)")
    arguments = parser.parse_args()
    pairs = [each.split("=", 1) for each in arguments.data]
    if bad := [each for each in pairs if len(each) != 2]:
        raise ValueError(f"--data must be NAME=FOLDER, got {bad[0][0]}")
    data = {name: load(name, Path(folder)) for name, folder in pairs}
    if arguments.take_over is not None:
        count = take_over(common.load(arguments.take_over), data, arguments.out)
        print(f"{count} cells of {arguments.take_over} taken over")
    if arguments.report:
        print(f"written to {report(data, arguments.out, arguments.result)}")
    else:
        run(data, arguments.out, hours=arguments.hours, workers=arguments.workers)


if __name__ == "__main__":
    main()
