"""Write images and labels as tar shards."""

import json
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from torchaug_gen import rng
from torchaug_gen.labels import class_names
from torchaug_gen.shards.archive import ShardFile
from torchaug_gen.shards.atomic import whole_or_not
from torchaug_gen.shards.encode import Encoding, check_fields
from torchaug_gen.shards.encoders import Encoded, Result, encoded, is_map_style
from torchaug_gen.shards.index import read_index, write_index
from torchaug_gen.shards.journal import Entry, Journal

# Runs that are over sooner show no progress bar.
_LONG_S = 2.0


def write_shards(
    items: Dataset[Any] | Iterable[Any],
    out_dir: str | Path,
    *,
    samples_per_shard: int = 1000,
    max_shard_bytes: int | None = None,
    image_format: str = "jpg",
    quality: int = 95,
    fields: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    on_error: str = "raise",
    resume: bool = False,
) -> list[Path]:
    """Write items as tar shards that :class:`ShardStream` and webdataset read, and their index beside them.

    Shards are called ``000000.tar``, ``000001.tar``, …, and samples ``000000000``, ``000000001``, … through all of
    them. The same items give the same bytes, for any number of workers, with the same version of Pillow. A shard gets
    its name when it is whole. A run that was interrupted, or killed, leaves whole shards and a note of them, and goes
    on with ``resume=True``.

    Args:
        items: a map-style dataset or any iterable of ``(image, label)``, of tuples that ``fields`` names, or of
            mappings from field to value. Images are ``(C, H, W)`` tensors, uint8 or floating in [0, 1], NumPy arrays
            ``(H, W)`` or ``(H, W, C)`` of uint8, or PIL images, all with 1 or 3 channels; PIL images of other modes
            become RGB, without their transparency. In mappings, bytes are written as they are, strings in UTF-8,
            ``json`` as JSON, ``npy`` as an array, which may have 16 bits, integers in decimal digits; ``__key__`` is
            the sample's key, made safe to be a file's name; ``image`` is written as ``image_format``, and ``label`` as
            ``cls``.
        out_dir: made where it does not exist; must hold no ``*.tar``, unless ``resume``.
        samples_per_shard: the last shard may hold fewer.
        max_shard_bytes: a shard also ends before it would be larger; a sample that is too large alone has its own.
        image_format: ``"jpg"``, ``"png"`` or ``"webp"``, for the images of ``(image, label)``.
        quality: of jpg and webp, 1 to 100.
        fields: what the elements of tuples are, such as ``("jpg", "cls", "json")``.
        classes: their names in the order of their labels, for the index; those that the dataset says where left out.
        shuffle: write the items of a map-style dataset in a random order, which readers' shuffle buffers then need
            not make up for; data sets are often sorted by class.
        seed: of the order, 0 ≤ seed < 2⁶⁴.
        workers: processes that encode, and read the items of map-style datasets; 0 is this process.
        on_error: ``"raise"``, or ``"skip"`` items that cannot be read or written, whatever a dataset raises for them;
            the others keep their number, and a warning counts them. What an iterable raises always comes through,
            with a note of the item, since nothing can follow; and so does a key that comes twice in a shard.
        resume: go on with an interrupted run of the same items and settings: finished shards are not written again,
            nor their items read, save those of iterables. Of a finished run it changes nothing. ``on_error`` alone may
            change, from ``"raise"`` to ``"skip"``.

    Returns:
        The shards' paths, in order.

    Raises:
        ValueError: an option out of range, a folder that holds shards, no items, another run to resume, or an item
            that cannot be read or written, named by its index.
        TypeError: an option of another type; an item or a value of one, named likewise.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torchaug_gen.shards.stream import ShardStream
        >>> images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = write_shards(zip(images, [4, 0, 2]), folder, image_format="png")
        ...     [label for image, label in ShardStream(folder, fields=("png", "cls"), shuffle=0)]
        [4, 0, 2]
    """
    samples = _integer("samples_per_shard", samples_per_shard, least=1)
    nbytes = None if max_shard_bytes is None else _integer("max_shard_bytes", max_shard_bytes, least=1)
    workers = _integer("workers", workers, least=0)
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    _check_items(items, shuffle)
    names = class_names(items) if classes is None else _names(classes)
    number = None if names is None else len(names)
    encoding = Encoding(image_format, _integer("quality", quality), check_fields(fields), number)
    total = len(items) if is_map_style(items) else None  # type: ignore[arg-type]
    seed = rng.check_seed(seed)
    order = rng.permutation(seed, "shards.write", 0, total) if shuffle and total is not None else None
    settings = {
        "samples_per_shard": samples,
        "max_shard_bytes": nbytes,
        "image_format": image_format,
        "quality": encoding.quality,
        "fields": None if encoding.fields is None else list(encoding.fields),
        "classes": None if names is None else list(names),
        "items": total,
        "order": seed if shuffle else None,
        "on_error": on_error,
    }
    journal = Journal(Path(out_dir))
    journal.folder.mkdir(parents=True, exist_ok=True)
    if resume and (paths := _complete(journal, settings)):
        return paths
    done = _begin(journal, settings, resume=resume)
    start = done[-1].items if done else 0
    try:
        with closing(encoded(items, encoding, start=start, workers=workers, order=order)) as results:
            kept = accepted(_shown(results, start, total), skip=on_error == "skip")
            done += _pack_all(journal, kept, len(done), samples, nbytes)
    finally:
        if journal.finished(0) is None:
            journal.remove()
    if not done:
        raise ValueError("items must hold at least one item that can be written, got none")
    write_index(journal.folder, [(entry.shard, entry.line) for entry in done], names, settings)
    journal.remove()
    return [journal.folder / entry.shard.name for entry in done]


def accepted(results: Iterable[Result], *, skip: bool) -> Iterator[Encoded]:
    """Yield the items that can be written.

    Args:
        results: of :func:`encoded`.
        skip: leave out the others, and warn of them at the end.

    Raises:
        ValueError: one that cannot, named by its index.
        TypeError: likewise.
    """
    refused, first = 0, ""
    for result in results:
        if isinstance(result, Encoded):
            yield result
            continue
        reason = f"item {result.number}: {result.reason}"
        if not skip:
            raise result.kind(reason) from result.cause
        first = first or reason
        refused += 1
    if refused:
        warnings.warn(f"skipped {refused} items that cannot be read or written; the first: {first}", RuntimeWarning, 2)


def pack(
    journal: Journal,
    number: int,
    first: Encoded,
    more: Iterator[Encoded],
    *,
    samples: int,
    nbytes: int | None = None,
) -> tuple[Entry, Encoded | None]:
    """Write a shard, whole or not at all, and note it.

    Args:
        journal: of the folder.
        number: the shard's.
        first: its first sample.
        more: those that follow, of which it takes what it can hold.
        samples: how many that is at most.
        nbytes: how large the shard may be, unless one sample alone is larger.

    Returns:
        The shard's entry, and a sample that was taken but did not fit.

    Raises:
        ValueError: a key that comes twice.
    """
    journal.clean(number)
    with whole_or_not(journal.shard(number)) as file:
        shard = ShardFile(file)
        sample: Encoded | None = first
        while sample is not None:
            key = f"{sample.number:09d}" if sample.key is None else sample.key
            if nbytes is not None and shard.samples and shard.size_with(key, sample.files) > nbytes:
                break
            try:
                shard.add(key, sample.files)
            except ValueError as error:
                raise ValueError(f"item {sample.number}: {error}") from error
            used = sample.number + 1
            # Not asked for more than it takes: the next item may be long in coming, or the last that there is.
            sample = next(more, None) if shard.samples < samples else None
        shard.close()
    return journal.note(number, used), sample


def _pack_all(journal: Journal, samples: Iterator[Encoded], number: int, most: int, nbytes: int | None) -> list[Entry]:
    entries: list[Entry] = []
    sample = next(samples, None)
    while sample is not None:
        entry, left = pack(journal, number + len(entries), sample, samples, samples=most, nbytes=nbytes)
        entries.append(entry)
        sample = left or next(samples, None)
    return entries


def _begin(journal: Journal, settings: Mapping[str, Any], *, resume: bool) -> list[Entry]:
    """Return the entries of what an interrupted run finished, or begin a new one."""
    existing, noted = sorted(journal.folder.glob("*.tar")), journal.settings()
    if existing and not (resume and noted):
        hint = "; resume=True (--resume) goes on with the run that was interrupted" if noted else ""
        hint = "; no run left a note of them, so there is none to resume" if resume else hint
        raise ValueError(f"out_dir must hold no shards, but {journal.folder} holds {existing[0].name}{hint}")
    if not existing or noted is None:
        journal.begin(settings)
        journal.clean(0)
        return []
    _check_same(noted, settings)
    journal.go_on(settings)
    found = takewhile(lambda entry: entry is not None, map(journal.finished, count()))
    return [entry for entry in found if entry is not None]


def _complete(journal: Journal, settings: Mapping[str, Any]) -> list[Path]:
    """Return the shards of a run that is finished; none where there is no such run."""
    index = None if journal.settings() is not None else read_index(journal.folder)
    if index is None or index.written is None:
        return []
    _check_same(index.written, settings)
    for number, shard in enumerate(index.shards):
        if journal.indexed(number, index) is None:
            raise ValueError(
                f"{journal.folder} holds a finished run, but its {shard.name} is lost or of another size: write into "
                "another folder"
            )
    return [journal.folder / shard.name for shard in index.shards]


def _check_same(noted: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where shards that were written with settings could differ from those of others."""
    for name, value in json.loads(json.dumps(settings)).items():
        # What was written while errors were raised holds every item.
        may_differ = name == "on_error" and noted.get(name) == "raise"
        if noted.get(name) != value and not may_differ:
            raise ValueError(f"{name} was {noted.get(name)!r} when the writing began, and is {value!r} now")


def _shown(results: Iterable[Result], start: int, total: int | None) -> Iterator[Result]:
    from tqdm.auto import tqdm

    # disable=None: no bar where the output is no terminal.
    yield from tqdm(results, initial=start, total=total, unit="sample", delay=_LONG_S, disable=None)


def _integer(name: str, value: Any, *, least: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def _names(classes: Any) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise TypeError(f'classes must be a sequence of names such as ("cat", "dog"), got the string {classes!r}')
    return tuple(map(str, classes))


def _check_items(items: Any, shuffle: bool) -> None:
    if isinstance(items, type) or not (isinstance(items, Iterable) or is_map_style(items)):
        raise TypeError(f"items must be a map-style dataset or an iterable, got {items!r}")
    if shuffle and not is_map_style(items):
        raise ValueError("shuffle needs a map-style dataset, whose items can be read in any order")
