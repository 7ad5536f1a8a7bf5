"""Write synthetic samples as tar shards, by many processes, each sample with where it comes from."""

import json
import operator
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torchaug_gen import ranks, rng
from torchaug_gen.pixels import convert
from torchaug_gen.ranks import Share
from torchaug_gen.shards.atomic import whole_or_not
from torchaug_gen.shards.encode import Encoding
from torchaug_gen.shards.encoders import encoded
from torchaug_gen.shards.index import Shard, read_index, write_index
from torchaug_gen.shards.journal import Journal
from torchaug_gen.shards.provenance import Provenance, describe_gate
from torchaug_gen.shards.write import accepted, pack
from torchaug_gen.synthesis.gates.stats import GateStats
from torchaug_gen.synthesis.synthesizer import Synthesizer

SETTINGS_NAME = "synthesis.json"

# Samples drawn at a time: with gates, what a wave of candidates is lacking comes out of the same pass.
_AT_A_TIME = 256
_LONG_S = 2.0


class Synthesis(NamedTuple):
    """What one process wrote.

    Attributes:
        shards: the paths of its shards, also of those that were finished before.
        complete: whether those of all processes are there, each as large as it was written, and the index.
        stats: what its gates saw, where there are some.
    """

    shards: list[Path]
    complete: bool
    stats: GateStats | None


def synthesize_shards(
    synthesizer: Synthesizer,
    out_dir: str | Path,
    *,
    n: int,
    run: str,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    gates: Any = (),
    max_candidates: int = 1024,
    samples_per_shard: int = 1000,
    image_format: str = "png",
    quality: int = 95,
    workers: int = 0,
    share: Share | None = None,
    about: Mapping[str, Any] | None = None,
) -> Synthesis:
    """Write what a synthesizer draws as tar shards, and say of each sample where it comes from.

    Sample p is a function of the settings and p alone, and so is shard i, which holds p = i · samples_per_shard and
    what follows. Of several processes, on one machine or many, that write into the same folder, rank r writes shards
    r, r + ranks, r + 2 · ranks, …: they need not talk to each other, and their number does not matter. Whoever finishes
    the last one writes the index. A call with the same settings goes on where an earlier one was interrupted, writes
    again what was lost since, and changes nothing else. Networks give equal bits only on devices of one kind.

    A sample is an image, its label ``cls`` where the synthesizer has classes, and ``json``: ``run``, ``seed``,
    ``epoch`` (always 0), ``position``, ``label`` and ``class``, with which ``sample(labels=, positions=, seed=)``
    draws this very image; ``sample``, which is p; and in ``gates`` what each gate found, such as a probability.

    Args:
        synthesizer: what draws.
        out_dir: made where it does not exist.
        n: how many samples, over all processes together.
        run: tells which weights draw, such as a SHA-256 of their file.
        seed: 0 ≤ seed < 2⁶⁴.
        labels: classes in turn, sample p getting the p-th, and again from the first; all classes where left out.
        gates: what samples must pass; see :class:`GatedSynthesizer`.
        max_candidates: see there.
        samples_per_shard: the last shard may hold fewer.
        image_format: ``"png"``, ``"jpg"`` or ``"webp"``.
        quality: of jpg and webp, 1 to 100.
        workers: processes that encode; 0 is this one.
        share: which of how many processes this is; as ``torchrun`` says where left out.
        about: more that must be the same in every process and call, as JSON holds it.

    Raises:
        ValueError: a setting out of range, a folder that holds other shards, or labels or gates that do not fit.

    Example:
        >>> import tempfile
        >>> from torchaug_gen import NoiseSynthesizer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     noise = NoiseSynthesizer((1, 8, 8), num_classes=2)
        ...     made = synthesize_shards(noise, folder, n=5, run="noise", samples_per_shard=3)
        >>> [path.name for path in made.shards], made.complete
        (['000000.tar', '000001.tar'], True)
    """
    labels = None if labels is None else list(map(operator.index, labels))
    _check(synthesizer, n, samples_per_shard, workers, labels)
    seed = rng.check_seed(seed)
    encoding = Encoding(image_format, quality)
    provenance = Provenance(synthesizer, gates, run=run, seed=seed, max_candidates=max_candidates)
    settings = {
        "format": "torchaug_gen synthesis",
        "version": 1,
        "package_version": version("torchaug_gen"),
        "run": run,
        "n": n,
        "seed": seed,
        "labels": labels,
        "gates": [describe_gate(gate) for gate in provenance.gates],
        "max_candidates": max_candidates,
        "samples_per_shard": samples_per_shard,
        "image_format": image_format,
        "quality": quality,
        "about": dict(about or {}),
    }
    journal = Journal(Path(out_dir))
    check_settings(journal.folder, settings)
    total, share = -(-n // samples_per_shard), share or ranks.rank()
    mine = range(share.index, total, share.count)
    missing = [number for number, entry in zip(mine, _finished(journal, mine), strict=True) if entry is None]
    if missing:
        rows = [range(i * samples_per_shard, min((i + 1) * samples_per_shard, n)) for i in missing]
        items = _items(provenance, rows, image_format, labels)
        with closing(encoded(_shown(items, rows, share), encoding, workers=workers)) as results:
            samples = accepted(results, skip=False)
            for number, row in zip(missing, rows, strict=True):
                pack(journal, number, next(samples), samples, samples=len(row))
    complete = _finish(journal, total, synthesizer.classes)
    return Synthesis([journal.shard(number) for number in mine], complete, provenance.stats)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings of a folder; where there are shards, compare them with those that are noted.

    Raises:
        ValueError: others are, or shards of which none are.
    """
    path = folder / SETTINGS_NAME
    wanted = json.loads(json.dumps(settings))
    folder.mkdir(parents=True, exist_ok=True)
    existing = sorted(folder.glob("*.tar"))
    # Looked for behind the shards: another process may be ahead by one, but notes its settings first.
    noted = _noted(path)
    if noted == wanted:
        return
    if existing:
        if noted is None:
            raise ValueError(f"out_dir must hold no other shards, but {folder} holds {existing[0].name}")
        name = next(name for name in {**wanted, **noted} if noted.get(name) != wanted.get(name))
        raise ValueError(
            f"{folder} holds samples of other settings: {name} was {noted.get(name)!r}, and is {wanted.get(name)!r} "
            "now; write into another folder"
        )
    with whole_or_not(path) as file:
        file.write(json.dumps(wanted, indent=2).encode() + b"\n")


def _noted(path: Path) -> dict[str, Any] | None:
    try:
        noted = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise ValueError(f"{path} is damaged: it must hold the settings of the shards beside it")
    return noted


def _finish(journal: Journal, total: int, classes: Sequence[str] | None) -> bool:
    """Write the index and remove the journal where all shards are finished; say whether they are."""
    begun = journal.begun
    found = [entry for entry in _finished(journal, range(total)) if entry is not None]
    if begun and len(found) == total:
        write_index(journal.folder, found, classes)
        journal.remove()
    return len(found) == total


def _finished(journal: Journal, numbers: Sequence[int]) -> list[tuple[Shard, bytes] | None]:
    """Return what the index says, or will say, of each shard; ``None`` of one that is not there as it was finished."""
    noted = [journal.finished(number) for number in numbers]
    # Read behind the notes: another process takes them away once it has written the index.
    index = read_index(journal.folder)
    indexed = [None if index is None else journal.indexed(number, index) for number in numbers]
    return [place if entry is None else (entry.shard, entry.line) for entry, place in zip(noted, indexed, strict=True)]


def _items(
    provenance: Provenance, rows: Sequence[range], image_format: str, labels: Sequence[int] | None
) -> Generator[dict[str, Any], None, None]:
    """Yield the samples of shards as mappings from field to value."""
    for row in rows:
        # From the shard's first sample on: a network with noise of its own gives what it gives to a whole chunk.
        for start in range(row.start, row.stop, _AT_A_TIME):
            positions = torch.arange(start, min(start + _AT_A_TIME, row.stop))
            images, asked, told = provenance.sample(positions, labels)
            pixels = convert(images, torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            for place, image in enumerate(pixels):
                values = {"__key__": f"synthetic-{told[place]['sample']:09d}", image_format: image, "json": told[place]}
                yield values if asked is None else values | {"cls": asked[place]}


def _shown(items: Iterator[Any], rows: Sequence[range], share: Share) -> Iterator[Any]:
    from tqdm.auto import tqdm

    # One bar is enough: all ranks have as much to do.
    hidden = None if share.index == 0 else True
    yield from tqdm(items, total=sum(map(len, rows)), unit="sample", delay=_LONG_S, disable=hidden)


def _check(synthesizer: Synthesizer, n: int, samples: int, workers: int, labels: Sequence[int] | None) -> None:
    for name, value, least in (("n", n, 1), ("samples_per_shard", samples, 1), ("workers", workers, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if labels is None:
        return
    if synthesizer.num_classes is None:
        raise ValueError("labels were given, but this synthesizer has no classes")
    if not labels or not all(0 <= label < synthesizer.num_classes for label in labels):
        raise ValueError(f"labels must be classes in 0..{synthesizer.num_classes - 1}, got {list(labels)}")
