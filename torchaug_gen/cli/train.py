"""``torchaug-gen train``."""

import argparse
import tarfile
from collections.abc import Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from tarfile import TarInfo
from typing import Any

from torchaug_gen.cli.commands import Commands


def operations(given: str) -> tuple[str, ...]:
    """Return the operations in a list with commas, none of which may be ``none``."""
    return () if given == "none" else tuple(given.split(","))


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
    ("learning-rate-decay", float, "what the learning rate is divided by until training ends (default: 1)"),
    ("beta2", float, "Adam's β₂ at first, rising to 0.99 (default: 0.99 throughout; 0.999 for dcgan)"),
    ("blocks", int, "residual blocks at each resolution (default: 1)"),
    ("gamma", float, "weight of the gradient penalties at first (default: 10; 1 above 48 px, 0 for dcgan)"),
    ("gamma-decay", float, "what that is divided by until training ends (default: 10)"),
    ("penalty-every", int, "steps between two penalties (default: 4)"),
    ("ema-images", int, "images after which a weight in the average drawn from halves (default: 10000; 0 for dcgan)"),
    ("augment", operations, "of what both networks see, with commas (default: all below 10,000 images, else none)"),
    ("transition", float, "part of the steps until classes count (default: 0.5 below 100 images per class, else 0)"),
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
# Of a sample that are looked through for its class.
_FILES = 16
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME", operations: "NAME,..."}
_SWITCHES = (
    ("unconditional", "unconditional", True, "learn no classes, whatever labels DATA has"),
    ("no-amp", "amp", False, "on CUDA, train in float32 throughout instead of under bfloat16 autocast"),
    ("tensorboard", "tensorboard", True, "write the losses for TensorBoard too"),
)
_MIRROR = (("mirror", "mirror", True, "flip half of the real images left to right"),)


def add(commands: Commands) -> None:
    """Add the command."""
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
        option = parser.add_argument
        option(
            "data",
            metavar="DATA",
            help="folder with one subfolder of images per class, folder of images, or of tar shards",
        )
        option("--out", metavar="RUN", required=True, help="run folder to write")
        for name, parse, words in (*_COMMON, *own):
            metavar = _METAVARS[parse]
            option(f"--{name}", metavar=metavar, type=parse, help=words.format(**defaults))
        for name, field, value, words in (*_SWITCHES, *(_MIRROR if kind == "gan" else ())):
            option(f"--{name}", dest=field, action="store_const", const=value, help=words)
        again = parser.add_mutually_exclusive_group()
        again.add_argument(
            "--resume", action="store_true", help="go on from RUN's newest checkpoint, with the options of then"
        )
        again.add_argument("--overwrite", action="store_true", help="start anew where RUN holds a training")
        parser.set_defaults(command=_train, kind=kind, resumable=True)


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
        _check_free(out)
    config = config_type(**values)
    data = _training_data(Path(arguments.data), labelled=not config.unconditional)
    train(data, config, out=out, resume=arguments.resume)
    print(f"{out} is trained; torchaug-gen sample {out} --out grid.png draws from it")
    return 0


def _trainer(kind: str) -> tuple[Any, Any]:
    """Return what configures a kind of training, and what trains."""
    if kind == "gan":
        from torchaug_gen.synthesis.gan.training import GanConfig, train_gan

        return GanConfig, train_gan
    from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae

    return VaeConfig, train_vae


def _training_data(path: Path, *, labelled: bool) -> Any:
    """Return a folder of images as it is, and one of tar shards as the stream of its samples."""
    shards = sorted(path.glob("*.tar"))
    if not shards:
        return path
    from torchaug_gen.shards.stream import ShardStream

    fields = ("jpg;jpeg;png;webp;gif", "cls")
    return ShardStream(str(path), fields=fields if labelled and _first_sample_has_class(shards) else fields[:1])


def _first_sample_has_class(shards: Sequence[Path]) -> bool:
    """Say whether the first sample has a class; what cannot be read is for the stream to tell."""
    for shard in shards:
        try:
            with tarfile.open(shard) as archive:
                names = [Path(member.name).name for member in islice(filter(TarInfo.isfile, archive), _FILES)]
        except (tarfile.TarError, OSError):
            return True
        sample = [name.partition(".")[2].lower() for name in names if name.split(".")[0] == names[0].split(".")[0]]
        if sample:
            return "cls" in sample
    return True


def _check_free(out: Path) -> None:
    """Raise ``FileExistsError`` where a training would be lost."""
    from torchaug_gen.synthesis.training.checkpoints import newest
    from torchaug_gen.synthesis.training.loop import read_settings

    found = newest(out)
    if found is None or not found[1].step:
        return
    step, steps = found[1].step, read_settings(out)["steps"]
    state = f"stopped after step {step} of {steps}" if step < steps else f"is finished, with {steps} steps"
    more = "" if step < steps else " and more --steps"
    raise FileExistsError(
        f"{out} holds a training that {state}: go on with --resume{more}, start anew with --overwrite, or name another "
        "--out"
    )
