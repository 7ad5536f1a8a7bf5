"""``torchaug-gen shards``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchaug_gen.cli.commands import Commands
from torchaug_gen.cli.gates import add_gates
from torchaug_gen.cli.told import add_told, told

_MIB = 1 << 20


def add(commands: Commands) -> None:
    """Add the command."""
    kinds = commands.add_parser(
        "shards", help="write and index tar shards", description="Write and index tar shards of images."
    ).add_subparsers(metavar="write|index|synthesize", required=True)
    _add_write(kinds)
    _add_index(kinds)
    _add_synthesize(kinds)


def _add_write(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "write",
        help="write images as tar shards, with their index",
        description=(
            "Write the images of DATA, one subfolder per class, as shards into the folder OUT, in a random order; or "
            "the samples of the shards in DATA, in the order that they have. A run that was interrupted goes on with "
            "--resume."
        ),
    )
    option = parser.add_argument
    option("data", metavar="DATA", help="folder with one subfolder of images per class, or a folder of tar shards")
    option("out", metavar="OUT", help="folder to write")
    _add_size(parser)
    option("--max-shard-mib", metavar="X", type=float, help="MiB that a shard may have (default: any)")
    option(
        "--format",
        choices=("keep", "jpg", "png", "webp"),
        default="keep",
        help="of the images; keep stores the files as they are (default: %(default)s)",
    )
    option("--quality", metavar="N", type=int, default=95, help="of jpg and webp, 1 to 100 (default: %(default)s)")
    option("--short-side", metavar="N", type=int, help="shrink larger images to N pixels at their shorter side")
    option("--in-order", action="store_true", help="keep the order of classes and files")
    option("--seed", metavar="N", type=int, help="decides the random order (default: 0)")
    option("--skip-damaged", action="store_true", help="leave out images that cannot be read, and say how many")
    option("--resume", action="store_true", help="go on with the same run, which was interrupted")
    parser.set_defaults(command=_write)


def _add_index(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "index",
        help="index shards that somebody else wrote",
        description=(
            "Read all shards (*.tar) in FOLDER and write their index beside them, from which readers know their length "
            "and can go on anywhere."
        ),
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of tar shards")
    parser.add_argument("--classes", metavar="NAME", nargs="+", help="names of the classes in the order of labels")
    parser.set_defaults(command=_index)


def _add_synthesize(kinds: Commands) -> None:
    parser = kinds.add_parser(
        "synthesize",
        help="draw images from a trained synthesizer into shards",
        description=(
            "Draw images from RUN, a run folder or anybody's generator as in torchaug-gen sample, into shards in the "
            "folder OUT; the JSON of each sample says where it comes from. The same command goes on with what was "
            "interrupted. For several processes, on one machine or many that share OUT: torchrun --nproc-per-node N -m "
            "torchaug_gen.cli shards synthesize RUN OUT --samples N ..."
        ),
    )
    option = parser.add_argument
    option("path", metavar="RUN", help="run folder or file")
    option("out", metavar="OUT", help="folder to write")
    # torchrun takes --n for a short form of its own options.
    option("--samples", "--n", dest="n", metavar="N", type=int, required=True, help="over all processes together")
    option("--class", dest="labels", metavar="CLASS", nargs="+", help="draw these only, in turn: names, or numbers")
    _add_size(parser)
    option("--format", choices=("png", "jpg", "webp"), default="png", help="of the images (default: %(default)s)")
    option("--quality", metavar="N", type=int, default=95, help="of jpg and webp, 1 to 100 (default: %(default)s)")
    option("--truncation", metavar="X", type=float, default=1.0, help="what latents are multiplied by (default: 1)")
    option("--seed", metavar="N", type=int, default=0, help="decides every random number (default: %(default)s)")
    option("--device", default="cpu", help="where to draw, such as cpu or cuda (default: %(default)s)")
    option("--trust", action="store_true", help="allow formats that can execute code when they are loaded")
    option("--sha256", metavar="HEX", help="expected SHA-256 of the file with the network")
    add_gates(parser)
    add_told(parser)
    parser.set_defaults(command=_synthesize)


def _add_size(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--samples-per-shard", metavar="N", type=int, default=1000, help="at most (default: %(default)s)")
    option("--workers", metavar="N", type=int, default=0, help="processes that encode (default: %(default)s)")


def _write(arguments: argparse.Namespace) -> int:
    from torchaug_gen.shards.files import ImageFiles, TarSamples
    from torchaug_gen.shards.write import write_shards

    data, out, mib = Path(arguments.data), Path(arguments.out), arguments.max_shard_mib
    if mib is not None and not 1 <= mib * _MIB < float("inf"):
        raise ValueError(f"--max-shard-mib must be finite and at least one byte, got {mib}")
    kept = arguments.format == "keep"
    if any(data.glob("*.tar")):
        if not kept or arguments.short_side is not None or arguments.seed is not None:
            raise ValueError(
                f"{data} holds shards, whose samples are written as they are, in their order: --format, --short-side "
                "and --seed are for folders of images"
            )
        items: Any = TarSamples(data)
    else:
        items = ImageFiles(data, image_format=None if kept else arguments.format, short_side=arguments.short_side)
        _say_left_out(items.left_out)
    if out.resolve() == data.resolve():
        raise ValueError(f"OUT must be another folder than DATA, got {out} for both")
    shuffle = not arguments.in_order and isinstance(items, ImageFiles)
    paths = write_shards(
        items,
        out,
        samples_per_shard=arguments.samples_per_shard,
        max_shard_bytes=None if mib is None else int(mib * _MIB),
        image_format="jpg" if kept else arguments.format,
        quality=arguments.quality,
        classes=items.classes,
        shuffle=shuffle,
        seed=arguments.seed or 0,
        workers=arguments.workers,
        on_error="skip" if arguments.skip_damaged else "raise",
        resume=arguments.resume,
    )
    print(f"{_count(out)} samples in {_shards(len(paths))} in {out}")
    return 0


def _say_left_out(files: Sequence[Path]) -> None:
    if files:
        print(f"files left out, because they are no images of a class: {len(files)}, first {files[0]}", file=sys.stderr)


def _index(arguments: argparse.Namespace) -> int:
    from torchaug_gen.shards.index import index_folder

    index = index_folder(arguments.folder, classes=arguments.classes)
    samples = sum(shard.samples for shard in index.shards)
    print(f"{samples} samples in {_shards(len(index.shards))} in {arguments.folder}")
    return 0


def _synthesize(arguments: argparse.Namespace) -> int:
    import torch

    from torchaug_gen.cli.gates import gates_for
    from torchaug_gen.cli.sample import class_label
    from torchaug_gen.shards.provenance import run_sha256
    from torchaug_gen.shards.synthesize import synthesize_shards
    from torchaug_gen.synthesis.synthesizer import Synthesizer
    from torchaug_gen.synthesis.training import distributed
    from torchaug_gen.synthesis.training.settings import TrainingSettings, check_count

    check_count("n", arguments.n)
    if not 0 < arguments.truncation < float("inf"):
        raise ValueError(f"truncation must be above 0 and finite, got {arguments.truncation}")
    out, device = Path(arguments.out), TrainingSettings(device=arguments.device).local_device
    synthesizer = Synthesizer.load(
        arguments.path, device=device, trust=arguments.trust, sha256=arguments.sha256, **told(arguments)
    )
    synthesizer.truncation = arguments.truncation
    labels = arguments.labels and [class_label(label, synthesizer.classes) for label in arguments.labels]
    # gloo: what is shared are a few gates, on the host.
    with distributed.processes(torch.device("cpu")) as share:
        gates = gates_for(arguments, synthesizer, out)
    if share.index == 0 and gates:
        print("\n".join(map(str, gates)), file=sys.stderr)
    made = synthesize_shards(
        synthesizer,
        out,
        n=arguments.n,
        run=run_sha256(Path(arguments.path)),
        seed=arguments.seed,
        labels=labels,
        gates=gates,
        max_candidates=arguments.max_candidates,
        samples_per_shard=arguments.samples_per_shard,
        image_format=arguments.format,
        quality=arguments.quality,
        workers=arguments.workers,
        share=share,
        about={"told": told(arguments), "truncation": arguments.truncation, "data": arguments.data},
    )
    _say(made, share, out)
    return 0


def _say(made: Any, share: Any, out: Path) -> None:
    """Print what one of several processes did."""
    if made.stats is not None and int(made.stats.seen[0].sum()):
        print(f"rank {share.index}: {made.stats}" if share.count > 1 else made.stats)
    if share.count > 1:
        print(f"rank {share.index} of {share.count}: {_shards(len(made.shards))}")
    if made.complete:
        print(f"{_count(out)} samples in {out}")
    elif share.count == 1 or share.index == share.count - 1:
        print(
            f"others still write; where ranks do not share {out}, bring all shards into one folder and index it: "
            "torchaug-gen shards index"
        )


def _count(folder: Path) -> int:
    from torchaug_gen.shards.index import read_index

    index = read_index(folder)
    return 0 if index is None else sum(shard.samples for shard in index.shards)


def _shards(count: int) -> str:
    return f"{count} shard{'' if count == 1 else 's'}"
