"""AugmentedLoader: the DataLoader you already have, with augmentation and live synthetic images."""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from torchaug_gen.datasets import check_class_count
from torchaug_gen.loading.bookmark import Bookmark
from torchaug_gen.loading.class_source import ClassSource
from torchaug_gen.loading.composer import Composer
from torchaug_gen.loading.continuity import continued
from torchaug_gen.loading.drawing import draw_ahead_of
from torchaug_gen.loading.epoch_pass import Opened, Pass
from torchaug_gen.loading.epochs import Epochs, ListeningSampler
from torchaug_gen.loading.guard import check_not_evaluating
from torchaug_gen.loading.inner import Inner
from torchaug_gen.loading.notices import Notices
from torchaug_gen.loading.plan import Delivery
from torchaug_gen.loading.prefetch import Prefetcher
from torchaug_gen.loading.readers import Reader
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.rest import Resting
from torchaug_gen.loading.settings import check_settings
from torchaug_gen.loading.side_stream import Aside, Given, SideStreams
from torchaug_gen.loading.source import Source
from torchaug_gen.loading.state import Progress
from torchaug_gen.loading.stats import Stats
from torchaug_gen.mixing import ClassSchedule

Batch = TypeVar("Batch")

# For all items, or for each class.
Share = float | Fraction | Callable[[int, int], float]
Fractions = Share | Mapping[int, Share] | Sequence[Share] | torch.Tensor


class AugmentedLoader(Generic[Batch]):
    """Wrap a loader so that its batches come augmented and mixed with synthetic images.

    Batches come back in their own structure and type. Every random number is a function of the seed, the epoch and
    the position in the epoch: the global generators are neither read nor moved, except by a transform that draws from
    Python's or NumPy's by itself, or a data set that is read without workers as a stream. The random transforms of a
    map-style data set are seeded too. With ``transform``, ``synthesizer``, ``tag`` and ``device`` all ``None`` the
    loader is off, and the inner loader's very batches come through.

    An epoch begins at an iterator's first ``next``: the first pass is epoch 0, each later pass the next one, unless
    :meth:`set_epoch` says otherwise. Samplers and datasets inside that have ``set_epoch`` are told; where somebody else
    has set a sampler's epoch, that one is adopted.

    :meth:`state_dict` and :meth:`load_state_dict` resume behind any batch, bit for bit. What a worker's data set draws
    as a stream is part of that only where its own state holds it.

    Args:
        loader: a ``DataLoader``, or any iterable of batches.
        transform: a Kornia module, a torchvision v2 transform, a callable on ``(N, C, H, W)`` images,
            :class:`torchaug_gen.MixUp`, or a list of these. They get floating images in [0, 1] where images are
            delivered floating.
        synthesizer: draws the synthetic images; anything with ``.sample(...)`` as :class:`torchaug_gen.Synthesizer`
            has it.
        synthetic_fraction: synthetic items / all items delivered, in [0, 1), or a pure function of (epoch, step) that
            returns it for each batch (:mod:`torchaug_gen.schedules`). After every batch of an epoch the synthetic
            items are the ceiling of the exact target. Or one such number or function for each class: a sequence of
            K, or a mapping that may leave classes out. Then the same holds for the items of each class by itself,
            ``{3: 0.5}`` doubles class 3, and a class of which no real item comes gets none; see Notes.
        mixing: ``"rebatch"``: every batch holds as many items as the inner loader's, the fraction of them synthetic; no
            real item is lost, and the epoch is longer. ``"extend"``: every inner batch of B items is delivered whole
            and grows to B / (1 - fraction). ``"replace"``: batch size and epoch length stay, and the replaced real
            items are NOT delivered in this epoch (others are replaced in the next); the new item takes the old one's
            label.
        labels: which classes to draw: ``"match"`` those of the batch's real rows, ``"balance"`` what the epoch has
            seen least of, ``(K,)`` weights, or a callable ``(real_labels, positions) -> labels``. Where classes are
            alike common take ``"balance"``: it evens out how many rows of each class a batch has, which ``"match"``
            makes more uneven.
        fields: where things are in a batch, by role: ``{"images": ..., "labels": ..., "masks": ..., "boxes": ...,
            "keypoints": ..., "fill": {...}}``; a key, an index, or a tuple of them for nested batches, or ``None``
            for a role that no field has. Roles left out are guessed for tuples, dicts, NamedTuples and dataclasses.
            ``fill`` maps other fields to the value that synthetic rows get there.
        tag: the name of a bool field added to each batch, True where an item is synthetic: a dict gains a key, a tuple
            or list a last element; NamedTuples and dataclasses must have the field.
        device: where batches go, or ``None`` to leave each where it is.
        dtype: what images are delivered as: uint8 to floating divides by 255, floating to uint8 rounds, ``None``
            keeps what comes. Cast last.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.
        prefetch: batches composed ahead in a background thread, on CUDA on a stream of its own, which pays where the
            consumer waits for a GPU; 0 for none, which is faster where training on a CPU keeps all its cores busy.
            Never are more than ``prefetch + 2`` batches alive.
        seed: 0 ≤ seed < 2⁶⁴; ``None`` means 0. Also decides the order of a shuffling inner loader.
        allow_eval: deliver synthetic items even where the loader seems to be used for evaluation: gradients are off, or
            the dataset says that it is a validation or test split.

    Notes:
        With a ``synthetic_fraction`` per class, labels must be class indices, the synthesizer must have classes, and
        ``labels`` must be left out. ``"extend"`` gives each batch the synthetic items that its own real ones ask for.
        ``"replace"`` replaces the fraction of each class. ``"rebatch"`` delivers real items in order, each behind the
        synthetic ones of its class due before it, cut into batches; classes are known only once items are loaded, so
        rows are carried over from one batch to the next, as over a stream; ``len`` is known only for plain samplers
        over a ``TensorDataset`` or a torchvision data set, and fractions that do not change; and several ranks, which
        would take different numbers of steps, raise.

    Attributes:
        loader: the inner loader. Its attributes are reached through this one.
        stats: what was delivered so far, and what took the time; ``print(loader.stats)``.

    Raises:
        ValueError: an argument out of range; at the first ``next``, a batch that cannot be mixed or transformed, an
            empty loader, or use in an evaluation.
        TypeError: an argument of the wrong type; ``len`` of a loader whose length is unknown.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from torchaug_gen import NoiseSynthesizer
        >>> images, labels = torch.rand(100, 3, 32, 32), torch.randint(10, (100,))
        >>> data = torch.utils.data.TensorDataset(images, labels)
        >>> loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True)
        >>> noise = NoiseSynthesizer((3, 32, 32), num_classes=10)
        >>> for images, labels, synthetic in AugmentedLoader(
        ...     loader, synthesizer=noise, synthetic_fraction=0.3, tag="synthetic"
        ... ):
        ...     pass
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        transform: Any = None,
        *,
        synthesizer: Any = None,
        synthetic_fraction: Fractions = 0.0,
        mixing: str = "rebatch",
        labels: Any = "match",
        fields: Mapping[str, Any] | None = None,
        tag: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        prefetch: int = 2,
        seed: int | None = None,
        allow_eval: bool = False,
    ) -> None:
        if not isinstance(loader, Iterable):
            raise TypeError(f"loader must be iterable over batches, got {type(loader).__name__}")
        self.stats = Stats(source=synthesizer)
        self.loader = loader
        self._settings = check_settings(
            transform,
            synthesizer=synthesizer,
            synthetic_fraction=synthetic_fraction,
            mixing=mixing,
            labels=labels,
            fields=fields,
            tag=tag,
            device=device,
            dtype=dtype,
            memory_format=memory_format,
            prefetch=prefetch,
            seed=seed,
            allow_eval=allow_eval,
        )
        self._inner = Inner(loader, self._settings)
        if self._inner.gradients is not None and not self._settings.off:
            # Our own, not the adapter's: no item of the last batch is a filler to be cut off.
            vars(self).update(end_of_dataloader=False, remainder=-1)
        # An adapter that is iterated itself counts epochs too, and tells them.
        self._epochs = Epochs(loader if self._settings.off else self._inner.loader)
        self._current: weakref.ref[Pass] | None = None
        self._reader: Reader | None = None
        self._bookmark = Bookmark(self._inner, synthesizer)
        self._notices = Notices()
        self._streams = SideStreams()
        if not self._settings.off:
            if self._settings.mixes:
                check_class_count(getattr(self._inner.loader, "dataset", None), synthesizer)
            self._reader = self._inner.reader()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader) if self._settings.off else Pass(self)

    def __len__(self) -> int:
        """Return the number of batches of the running or coming pass; ``TypeError`` where it is unknown."""
        running = self._current() if self._current is not None else None
        epoch = running.epoch if running is not None and not running.finished else None
        return self._notices.told(self._inner.batches(self._epochs.peek() if epoch is None else epoch))

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass epoch ``epoch`` ≥ 0, and tell the samplers and the dataset inside."""
        self._epochs.set(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, where the loader is: behind the batch that was handed over last.

        Batches prefetched behind it do not count. A loader that is off returns the inner loader's state, or nothing
        where that has none.

        Raises:
            TypeError: the inner loader's own state holds something that cannot be written as JSON.
        """
        if self._reader is None:
            inner = getattr(self.loader, "state_dict", None)
            state: dict[str, Any] = inner() if callable(inner) else {}
            return state
        return self._bookmark.to_state(self._epochs.peek())

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Make the next pass deliver the batches that would have followed where ``state`` was saved, bit for bit.

        Over a map-style loader nothing of what comes before is loaded; a sampler of the user's own that draws from a
        generator of its own needs ``set_epoch``, or ``state_dict`` and ``load_state_dict``. Where an
        ``IterableDataset`` has neither a state nor ``seek(position)``, or another iterable no state, what comes before
        is read and thrown away. Of the synthesizer, class and settings are compared, as of a pool and its gates; its
        weights are not.

        Args:
            state: what :meth:`state_dict` returned, in this process or another. Over a
                :class:`torchaug_gen.ShardStream` with an index, or what else deals the rest of an epoch anew, the
                number of a plain ``DataLoader``'s workers may have changed; where that of ranks has, it must be a list
                of the states of all ranks, as it may be anyway.

        Raises:
            TypeError: ``state`` is no dict.
            ValueError: the state of something else, of another version, of a loader with other settings (the first
                that differs is named), or of another rank or number of workers where that matters.
        """
        if self._reader is None:
            if callable(getattr(self.loader, "load_state_dict", None)):
                self.loader.load_state_dict(state)  # type: ignore[attr-defined]
            elif state:
                raise ValueError("the state is that of a loader that augments or mixes, but this one is off")
            return
        epoch = self._bookmark.load(state, self._reader)
        self._epochs.set(epoch)
        self._notices.of_order(self._reader, epoch)

    @property
    def sampler(self) -> Any:
        """The inner loader's sampler; frameworks that tell it an epoch tell the loader."""
        sampler = self.loader.sampler  # type: ignore[attr-defined]
        if self._reader is None or callable(getattr(sampler, "set_epoch", None)):
            return sampler
        return ListeningSampler(sampler, self.set_epoch)

    def __getattr__(self, name: str) -> Any:
        # Also reached while unpickling or copying, before there is an inner loader.
        if name.startswith("__") or "loader" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        inner = self.__dict__.get("loader")
        if inner is not None and name == "loader":
            raise AttributeError("loader cannot be changed: wrap the other loader in an AugmentedLoader of its own")
        if inner is None or name.startswith("_") or name in self.__dict__ or not hasattr(inner, name):
            object.__setattr__(self, name, value)
        else:
            setattr(inner, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no pass of its own, and is where it is by itself; weak references cannot be pickled.
        own = {name: copy.copy(self.__dict__[name]) for name in ("_bookmark", "_epochs", "_notices", "stats")}
        return {**self.__dict__, **own, "_current": None, "_reader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._settings.off:
            # Anew, so that persistent workers are its own too, and end with it.
            self._reader = self._inner.reader()

    def _begin(self, new: Pass) -> Opened:
        """Start a pass: take its epoch, and open all that stands between the inner loader and the consumer.

        Where that fails, or is interrupted, nothing is counted: the next try begins the same.
        """
        inner, settings = self._inner, self._settings
        if self._reader is None:
            raise RuntimeError("a loader that is off has no passes of its own")
        if settings.mixes and not settings.allow_eval:
            check_not_evaluating(self.loader)
        inner.check_ranks()
        start = self._bookmark.start(self._epochs.begin(), self._notices)
        self._notices.of_ranks(inner.loader)
        if settings.mixes and settings.schedule.varies and settings.mixing == "rebatch":
            self._notices.of_length(start.epoch, inner.batches)
        self._supersede(new)
        reading = self._reader.read(start.epoch, start.position)
        composer = Composer(continued(inner, settings, start.epoch), device=inner.device)
        compose = Resting(composer, settings.synthesizer)
        # Also where the pass is broken off; not before the prefetcher's thread, which it looks out for, may run.
        weakref.finalize(new, compose.end)
        opened = Opened(reading, self._prefetcher(self._source(reading, start), compose, composer.finish), start)
        if inner.gradients is not None:
            # Its own flag of the last batch runs ahead where batches are prefetched.
            self.end_of_dataloader = False
            inner.gradients._add_dataloader(self)
        self._bookmark.begun(replace(start, position=reading.position))
        self._epochs.count(start.epoch)
        return opened

    def _supersede(self, new: Pass) -> None:
        """Make a pass the current one; the one before loses its workers to it where they stay."""
        previous = self._current() if self._current is not None else None
        if previous is not None and previous is not new and getattr(self.loader, "persistent_workers", False):
            previous.superseded = True
        self._current = weakref.ref(new)

    def _source(self, reading: Reading, start: Progress) -> Source:
        """Return what plans the batches of a reading."""
        inner, settings = self._inner, self._settings
        sizes: dict[str, Any] = {"batch_size": inner.batch_size, "drop_last": inner.drop_last}
        if settings.mixes and isinstance(settings.schedule, ClassSchedule):
            return ClassSource(reading, settings, start=start, rank=inner.rank, **sizes)
        return Source(reading, settings, start=start, rank=inner.rank, regrouped=inner.regroups, **sizes)

    def _prefetcher(
        self, source: Source, compose: Callable[[Any], Delivery], finish: Callable[[], None]
    ) -> Prefetcher[Any, Delivery]:
        """Return what makes batches of a source's plans: on CUDA beside the consumer's stream."""
        depth = self._settings.prefetch
        if self._inner.gradients is not None:
            # Whether a batch is the last one is known once the next was asked for.
            depth = max(depth, 1)
        if depth and torch.cuda.is_available():
            aside = Aside(compose, self._streams, device=self._inner.device)
            return Prefetcher(partial(_given, source), aside, depth=depth, finish=finish)
        ahead = draw_ahead_of(self._settings.synthesizer) if depth and self._settings.mixes else None
        return Prefetcher(source.next, compose, depth=depth, prepare=ahead, finish=finish)

    def _handed_over(self, delivery: Delivery, *, last: bool) -> None:
        """Note what the consumer has now.

        Args:
            delivery: the batch.
            last: whether nothing comes behind it, as far as is known.
        """
        self._bookmark.handed_over(delivery)
        if self._inner.gradients is not None:
            self.end_of_dataloader = last
        self.stats.count(delivery)

    def _finished(self, opened: Opened) -> None:
        if self._inner.gradients is not None:
            self._inner.gradients._remove_dataloader(self)
        self._bookmark.finished(opened.start.epoch, opened.reading.end())


def _given(source: Source) -> Given:
    return Given(source.next())
