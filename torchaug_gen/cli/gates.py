"""Gates out of real images, made by one process and used by all."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from torchaug_gen.evaluation.sides import Sides
    from torchaug_gen.synthesis.gates import Gate
    from torchaug_gen.synthesis.synthesizer import Synthesizer

GATES_NAME = "gates.safetensors"
# The cheapest first: each sees what the ones before it let through.
_KINDS = ("sharpness", "neighbour", "classifier")
# What NeighbourGate looks at.
_SIDE = 16


def add_gates(parser: argparse.ArgumentParser) -> None:
    """Add the options of gates."""
    group = parser.add_argument_group("what samples must pass")
    option = group.add_argument
    option(
        "--gates",
        metavar="GATE",
        nargs="+",
        choices=_KINDS,
        default=[],
        help="sharpness: as sharp as real images; neighbour: as far from training images as held-out ones are; "
        "classifier: of the class asked for, as a classifier says that is trained on DATA",
    )
    option(
        "--data",
        metavar="DATA",
        help="real images for the gates: one subfolder per class, tar shards, or such trees train/ and test/ below it",
    )
    option("--heldout", metavar="FOLDER", help="real images that RUN was not trained on (default: DATA/test)")
    option(
        "--confidence",
        metavar="X",
        type=float,
        default=0.9,
        help="least probability of the class, for the classifier, in [0, 1) (default: %(default)s)",
    )
    option(
        "--classifier-steps",
        metavar="N",
        type=int,
        default=600,
        help="optimiser steps of the classifier (default: %(default)s)",
    )
    option(
        "--max-candidates",
        metavar="N",
        type=int,
        default=1024,
        help="images in a row that may be turned away before it fails (default: %(default)s)",
    )


def gates_for(arguments: argparse.Namespace, synthesizer: "Synthesizer", out: Path) -> "list[Gate]":
    """Return the gates that were asked for, the same in every process.

    The first process makes them and keeps them in ``OUT/gates.safetensors``, so that a run that goes on has the same:
    a training on another machine gives other weights.

    Raises:
        ValueError: gates without data, data that do not suffice, or other gates in ``OUT``.
    """
    from torchaug_gen.synthesis.training import distributed

    kinds = [kind for kind in _KINDS if kind in arguments.gates]
    if not kinds:
        return []
    if arguments.data is None:
        raise ValueError(f"--gates {' '.join(kinds)} need real images: --data DATA")
    settings = {
        "gates": kinds,
        "data": arguments.data,
        "heldout": arguments.heldout,
        "classifier_steps": arguments.classifier_steps,
        "seed": arguments.seed,
    }
    outcome: Any = None
    if distributed.share().index == 0:
        try:
            outcome = _kept(out / GATES_NAME, settings) or _made(out / GATES_NAME, settings, synthesizer)
        # Every process is to raise it, instead of waiting for this one.
        except (ValueError, TypeError, OSError) as error:
            outcome = error
    outcome = distributed.from_first(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return _gates(outcome, out / GATES_NAME, synthesizer, arguments.confidence)


def _kept(path: Path, settings: dict[str, Any]) -> bytes | None:
    """Return the gates of an earlier run, unless it has not written anything."""
    from torchaug_gen.synthesis.external.weights import read_safetensors

    if not path.is_file() or not any(path.parent.glob("*.tar")):
        return None
    content = path.read_bytes()
    noted = json.loads(bytes(read_safetensors(content, path)["settings"].tolist()))
    for name, value in settings.items():
        if noted.get(name) != value:
            raise ValueError(
                f"{path} holds gates of other settings: {name} was {noted.get(name)!r}, and is {value!r} now; write "
                "into another folder"
            )
    return content


def _made(path: Path, settings: dict[str, Any], synthesizer: "Synthesizer") -> bytes:
    """Calibrate and train on real images, and keep the result."""
    import torch
    from safetensors.torch import save

    from torchaug_gen.evaluation.sides import read_sides
    from torchaug_gen.synthesis.gates import SharpnessGate
    from torchaug_gen.synthesis.runs import write_atomically

    sides = read_sides(settings["data"], settings["heldout"], synthesizer, seed=settings["seed"])
    tensors = {"settings": torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)}
    if "sharpness" in settings["gates"]:
        sharp = SharpnessGate.calibrated(sides.train.images)
        tensors["sharpness"] = torch.tensor([sharp.low, sharp.high], dtype=torch.float64)
    if "neighbour" in settings["gates"]:
        tensors |= _neighbours(sides)
    if "classifier" in settings["gates"]:
        tensors |= _classifier(sides, synthesizer, settings["classifier_steps"], settings["seed"])
    content: bytes = save(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return content


def _neighbours(sides: "Sides") -> "dict[str, Tensor]":
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from torchaug_gen.pixels import convert
    from torchaug_gen.synthesis.gates import NeighbourGate

    if sides.heldout is None:
        raise ValueError("the gate neighbour needs images that RUN was not trained on: --heldout FOLDER, or DATA/test")
    train = sides.train.images
    size = (min(train.shape[2], _SIDE), min(train.shape[3], _SIDE))
    # As the gate itself sees them: a hundredth of the memory, where images are large.
    known = torch.cat([adaptive_avg_pool2d(convert(part, torch.float32), size) for part in train.split(256)])
    gate = NeighbourGate.calibrated(known, sides.heldout.images)
    return {"neighbour": torch.tensor([gate.low, gate.high], dtype=torch.float64), "neighbour.known": known}


def _classifier(sides: "Sides", synthesizer: "Synthesizer", steps: int, seed: int) -> "dict[str, Tensor]":
    import torch
    from tqdm import tqdm

    from torchaug_gen import rng
    from torchaug_gen.evaluation.classifier import SmallClassifier, accuracy, fit
    from torchaug_gen.evaluation.spaces import Shuffled
    from torchaug_gen.pixels import convert
    from torchaug_gen.seeded import Seeded

    train, heldout = sides.train, sides.heldout
    if synthesizer.num_classes is None or train.labels is None:
        raise ValueError("the gate classifier needs a RUN with classes, and DATA with a subfolder for each")
    with Seeded(rng.derive_seed(seed, "shards.classifier")):
        net = SmallClassifier(synthesizer.image_shape, synthesizer.num_classes)
        batches = Shuffled(train.images, train.labels, batch_size=64, seed=seed)
        with tqdm(total=steps, unit="step", desc="classifier", disable=None) as bar:
            fit(net, batches, steps, progress=bar)
    if heldout is not None and heldout.labels is not None:
        parts = zip(heldout.images.split(256), heldout.labels.split(256), strict=True)
        right = accuracy(net, [(convert(images, torch.float32), labels) for images, labels in parts])
        print(f"the gate's classifier is right on {right.micro:.1%} of the held-out images", file=sys.stderr)
    return {f"classifier.{name}": tensor.contiguous() for name, tensor in net.state_dict().items()}


def _gates(content: bytes, path: Path, synthesizer: "Synthesizer", confidence: float) -> "list[Gate]":
    from torchaug_gen.evaluation.classifier import SmallClassifier
    from torchaug_gen.synthesis.external.weights import read_safetensors
    from torchaug_gen.synthesis.gates import ClassifierGate, NeighbourGate, SharpnessGate

    tensors = read_safetensors(content, path)
    gates: list[Gate] = []
    if "sharpness" in tensors:
        low, high = tensors["sharpness"].tolist()
        gates.append(SharpnessGate(low=low, high=high))
    if "neighbour" in tensors:
        low, high = tensors["neighbour"].tolist()
        gates.append(NeighbourGate(tensors["neighbour.known"], low=low, high=high).to(synthesizer.device))
    weights = {name.removeprefix("classifier."): t for name, t in tensors.items() if name.startswith("classifier.")}
    if weights:
        net = SmallClassifier(synthesizer.image_shape, synthesizer.num_classes or 0)
        net.load_state_dict(weights)
        gates.append(ClassifierGate(net, threshold=confidence).to(synthesizer.device))
    return gates
