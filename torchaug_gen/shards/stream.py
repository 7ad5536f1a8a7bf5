"""ShardStream: samples from tar shards, in the format of webdataset."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch.utils.data import IterableDataset

from torchaug_gen import ranks, rng
from torchaug_gen.epoch import SharedEpoch
from torchaug_gen.ranks import Share
from torchaug_gen.shards.buffer import shuffled
from torchaug_gen.shards.decode import UndecodableError, decode
from torchaug_gen.shards.fields import SPECIAL, Field, parse_fields
from torchaug_gen.shards.remote import open_shard
from torchaug_gen.shards.samples import Sample, group
from torchaug_gen.shards.tar import TarError, read_tar
from torchaug_gen.shards.urls import Urls, expand

KINDS = ("read", "tar", "repeated", "missing", "image", "label", "data")


class ShardStream(IterableDataset[tuple[Any, ...]]):
    """Stream the samples of tar shards, each once an epoch over all DataLoader workers of all ranks.

    A shard is a tar archive, also compressed with gzip, in which neighbouring files with the same name up to
    the basename's first dot make a sample: ``train/7.jpg`` and ``train/7.cls``. Items are tuples in the order
    of ``fields``. Images (jpg, jpeg, png, webp, gif) become uint8 tensors ``(C, H, W)`` with 1 or 3 channels,
    ``cls`` and ``id`` integers, ``json`` what it holds, ``txt`` strings, ``npy`` tensors, other fields stay bytes;
    ``__key__`` and ``__url__`` are the sample's key and shard. Nothing is ever unpickled.

    Order is a pure function of (seed, epoch) and the number of consumers, that is of ranks × workers. Where there
    are at least as many shards as consumers, each reads its own shards; else each reads all and keeps every
    count-th sample. Call :meth:`set_epoch` for another order.

    Args:
        urls: a brace pattern, glob, path, folder (its ``*.tar``), ``http(s)://``, ``gs://`` or ``file:`` URL, or
            several of these. A ``Path`` is taken literally.
        fields: file extensions; ``"jpg;png"`` takes the first that a sample holds.
        shuffle: how many samples wait, undecoded, to be drawn from; 0 keeps the order of shards and samples.
        seed: 0 ≤ seed < 2⁶⁴.
        on_error: ``"raise"``, or ``"skip"``: count what is damaged in :attr:`stats` and warn once in each process.
        allow_pipe: allow ``pipe:`` URLs, which run shell commands.

    Raises:
        ValueError: no shard, an unknown URL scheme, a pickled field, an option out of range; while iterating with
            ``on_error="raise"``, a damaged shard or sample, named with its shard and key.
        FileNotFoundError: a path, glob or folder without a shard.

    Example:
        >>> stream = ShardStream("train/{000..099}.tar", fields=("jpg;png", "cls"))  # doctest: +SKIP
        >>> loader = DataLoader(stream, batch_size=64, num_workers=4)  # doctest: +SKIP
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     stream.set_epoch(epoch)
        ...     for images, labels in loader: ...
    """

    #: Every consumer gets its own share already: whoever wraps this stream must not split it again.
    splits_itself: bool = True

    def __init__(
        self,
        urls: Urls,
        *,
        fields: Sequence[str] = ("jpg", "cls"),
        shuffle: int = 1000,
        seed: int = 0,
        on_error: Literal["skip", "raise"] = "skip",
        allow_pipe: bool = False,
    ) -> None:
        if shuffle < 0:
            raise ValueError(f"shuffle must be at least 0, got {shuffle}")
        if on_error not in ("skip", "raise"):
            raise ValueError(f'on_error must be "skip" or "raise", got {on_error!r}')
        self._fields = parse_fields(fields)
        self._wanted = frozenset(name for field in self._fields for name in field.alternatives)
        self._shuffle = shuffle
        self._seed = rng.check_seed(seed)
        self._skip = on_error == "skip"
        self._shards = expand(urls, allow_pipe=allow_pipe)
        self._epoch = SharedEpoch()
        self._skipped: Counter[str] = Counter()

    def set_epoch(self, epoch: int) -> None:
        """Make every pass that starts from now on pass ``epoch``, in this process and in its workers."""
        self._epoch.set(epoch)

    @property
    def stats(self) -> dict[str, int]:
        """How many were skipped since the stream was made, by kind.

        ``read``: shards that could not be opened or read on. ``tar``: damaged archives; what precedes the damage is
        delivered. ``repeated``: samples with one field twice. ``missing``: samples without a field. ``image``,
        ``label``, ``data``: samples with a file that could not be decoded.

        These are the counts of the process that reads them: with ``num_workers`` > 0 each worker counts its own,
        and the main process, which reads nothing, shows zeros.
        """
        return {kind: self._skipped[kind] for kind in KINDS}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        epoch, consumer = self._epoch.get(), ranks.consumer()
        samples = self._samples(epoch, consumer)
        if self._shuffle:
            samples = shuffled(samples, self._shuffle, seed=self._seed, epoch=epoch, consumer=consumer)
        for sample in samples:
            try:
                item = tuple(_value(sample, field) for field in self._fields)
            except UndecodableError as error:
                self._report(error.kind, f"shard {sample.url}, sample {sample.key!r}", error)
            else:
                yield item

    def _samples(self, epoch: int, consumer: Share) -> Iterator[Sample]:
        """Yield the consumer's share of the epoch's samples, undecoded."""
        shards = self._order(epoch)
        if len(shards) >= consumer.count:
            for url in shards[consumer.index :: consumer.count]:
                yield from self._read(url)
            return
        for place, url in enumerate(shards):
            # Samples are counted within their shard, so that one consumer's failed download shifts no other's
            # share, and from another consumer on in each shard, so that remainders spread.
            for ordinal, sample in enumerate(self._read(url), start=place):
                if ordinal % consumer.count == consumer.index:
                    yield sample

    def _order(self, epoch: int) -> list[str]:
        """Return the epoch's order of shards, on which all consumers agree."""
        if not self._shuffle:
            return self._shards
        order = rng.permutation(self._seed, "shards.order", epoch, len(self._shards))
        return [self._shards[index] for index in order.tolist()]

    def _read(self, url: str) -> Iterator[Sample]:
        try:
            with open_shard(url) as stream:
                yield from group(url, read_tar(stream), self._wanted)
        except TarError as error:
            self._report("tar", f"shard {url}", error)
        except OSError as error:
            self._report("read", f"shard {url}", error)

    def _report(self, kind: str, where: str, error: Exception) -> None:
        message = f"{where}: {error}"
        if not self._skip:
            raise ValueError(message) from error
        if not self._skipped:
            warnings.warn(
                f"skipped {message} ({kind}); more may follow, all counted in ShardStream.stats",
                RuntimeWarning,
                stacklevel=3,
            )
        self._skipped[kind] += 1


def _value(sample: Sample, field: Field) -> Any:
    """Return one element of the item."""
    if sample.repeated is not None:
        raise UndecodableError("repeated", f"field {sample.repeated!r} comes more than once")
    name = field.alternatives[0]
    if name in SPECIAL:
        return sample.key if name == "__key__" else sample.url
    for name in field.alternatives:
        if name in sample.files:
            try:
                return decode(name, sample.files[name])
            except UndecodableError as error:
                raise UndecodableError(error.kind, f"field {name!r}: {error}") from error.__cause__
    raise UndecodableError(
        "missing", f"field {str(field)!r} is missing, it holds {', '.join(sample.files) or 'none asked for'}"
    )
