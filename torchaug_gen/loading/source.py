"""Source: turns the inner loader's batches into plans, for each of the three ways of mixing."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from torchaug_gen import batch as batches
from torchaug_gen import rng
from torchaug_gen.augment.rows import Key
from torchaug_gen.batch import Fields
from torchaug_gen.labels import check_labels, check_probabilities
from torchaug_gen.loading.checking import check_fields, check_fill, check_present, check_real, constants_of
from torchaug_gen.loading.plan import Plan
from torchaug_gen.loading.reading import Reading
from torchaug_gen.loading.settings import Settings
from torchaug_gen.loading.state import Progress
from torchaug_gen.mixing import ClassSchedule, LabelSource, Split, synthetic_rows
from torchaug_gen.ranks import Share


class Source:
    """Plans the batches of one pass, on the consumer's thread.

    Args:
        inner: the inner loader's batches, from the progress's position on.
        settings: the loader's settings.
        start: what the pass goes on from.
        rank: this process among those that share the epoch.
        batch_size: items in a mixed batch; 0 where batches are not regrouped.
        regrouped: whether the inner loader already delivers the real items of one mixed batch at a time.
        drop_last: whether a short last batch is dropped.
    """

    def __init__(
        self,
        inner: Reading,
        settings: Settings,
        *,
        start: Progress,
        rank: Share,
        batch_size: int,
        regrouped: bool,
        drop_last: bool,
    ) -> None:
        self.inner = inner
        self._settings = settings
        self._epoch, self._rank = start.epoch, rank
        self._batch_size, self._drop_last = batch_size, drop_last
        self._step = start.step
        self._tally = start.tally
        self._real_seen = start.real
        self._fields: Fields | None = None
        self._constants: frozenset[batches.Path] = frozenset()
        self._cursor = start.cursor
        self._label_source: LabelSource | None = None
        # Real rows that wait for their batch: a whole inner batch when regrouped, the carried rows else. They are the
        # last ones of the latest inner batch, which is read again to resume: they are not part of the state.
        self._held: Any = None
        self._latest_position, self._latest_rows = start.position, 0
        self._delivered_rows = start.rows
        self._ended = False
        # Plain functions: a bound method would put this object in a cycle, and workers would outlive the pass.
        ways = {
            "rebatch": Source._regrouped if regrouped else Source._carried,
            "extend": Source._extended,
            "replace": Source._replaced,
        }
        self._next: Callable[[Any], Plan] = ways[settings.mixing] if settings.mixes else Source._whole

    def next(self) -> Plan:
        """Return the next plan.

        Raises:
            StopIteration: the inner loader has ended.
            ValueError: a batch that cannot be mixed or transformed; says what was expected and what came.
        """
        return self._next(self)

    @property
    def _fraction(self) -> Fraction:
        """The fraction of the batch to be planned."""
        schedule = self._settings.schedule
        if isinstance(schedule, ClassSchedule):
            raise TypeError("fractions per class are planned by a ClassSource")
        return schedule(self._epoch, self._step)

    def _whole(self) -> Plan:
        batch, n = self._pull()
        return self._plan(batch, Split(n, 0))

    def _extended(self) -> Plan:
        batch, n = self._pull()
        return self._plan(batch, self._tally.extend(self._fraction, n))

    def _replaced(self) -> Plan:
        batch, n = self._pull()
        split = self._tally.split(self._fraction, n)
        rows = synthetic_rows(n, split.synthetic, shift=self._epoch + self._step)
        replaced = None
        if self._labels_of(batch) is not None:
            replaced = self._classes(batch)[rows]
        return self._plan(self._take(batch, n, (~rows).nonzero()[:, 0]), split, rows=rows, labels=replaced)

    def _regrouped(self) -> Plan:
        expected = self._tally.split(self._fraction, self._batch_size)
        if self._held is None:
            try:
                self._held = self._pull()
            except StopIteration:
                raise
            except Exception:
                # The lost batch counts, so that those behind it stay in step with the indices already handed out.
                while expected.real == 0:
                    self._advance(expected)
                    expected = self._tally.split(self._fraction, self._batch_size)
                self._advance(expected)
                raise
        batch, n = self._held
        if expected.real == 0:
            return self._plan(self._take(batch, n, torch.empty(0, dtype=torch.int64)), expected)
        self._held = None
        # Fewer rows come with the short last batch, or from a collate_fn that leaves items out.
        return self._plan(batch, expected if n == expected.real else self._tally.extend(self._fraction, n))

    def _carried(self) -> Plan:
        split = self._tally.split(self._fraction, self._batch_size)
        # One row at least, since a batch is delivered only while there are real items left.
        while not self._ended and (self._held is None or self._held[1] < max(split.real, 1)):
            self._carry()
        if self._held is None:
            raise StopIteration
        batch, n = self._held
        if n < split.real:
            if self._drop_last:
                raise StopIteration
            split = self._tally.extend(self._fraction, n)
        rows = torch.arange(n)
        self._held = (self._take(batch, n, rows[split.real :]), n - split.real) if n > split.real else None
        return self._plan(self._take(batch, n, rows[: split.real]), split)

    def _carry(self) -> None:
        """Add the next inner batch to the carried rows."""
        try:
            batch, n = self._pull()
        except StopIteration:
            self._ended = True
            return
        if not n:
            return
        if self._delivered_rows:
            batch = self._take(batch, n, torch.arange(self._delivered_rows, n))
            n, self._delivered_rows = n - self._delivered_rows, 0
        for path, value in self._columns(batch, n):
            if not (batches.is_column(value, n) or value is None or path == (self._settings.tag,)):
                raise ValueError(
                    f"field {batches.show(path)} cannot be split between batches, since it has not one entry for each "
                    f'of the {n} images; use mixing="extend", which keeps batches whole'
                )
        if self._held is not None:
            held, carried = self._held
            values = dict(self._columns(batch, n))
            joined = {
                path: batches.concatenate((value, values[path]))
                for path, value in self._columns(held, carried)
                if batches.is_column(value, carried)
            }
            batch, n = batches.replace(held, joined), carried + n
        self._held = (batch, n)

    def _pull(self) -> tuple[Any, int]:
        """Return the inner loader's next batch and its number of items, checked."""
        before = self.inner.position
        batch = next(self.inner)
        try:
            n = self._checked(batch)
        except ValueError as error:
            error.args = (f"{error} (batch {self._step} of epoch {self._epoch})",)
            raise
        if n:
            self._latest_position, self._latest_rows = before, n
        return batch, n

    def _checked(self, batch: Any) -> int:
        """Return the number of items of a batch, or raise where it cannot be mixed or transformed."""
        first, fields = self._fields is None, self._fields or batches.find_fields(batch, self._settings.fields)
        constants = constants_of(batch, fields) if first else self._constants
        if not first:
            check_present(batch, fields)
        images = batches.get(batch, fields.images)
        batches.assert_images(images, fields.images)
        if self._settings.mixes:
            check_fields(batch, fields, self._settings, constants=constants)
            if first:
                check_fill(batch, fields)
        # Only now: a consumer who goes on after the error meets it again.
        self._fields, self._constants = fields, constants
        n = batches.count(images)
        # Labels of no images have whatever dtype an empty list becomes.
        if fields.labels is not None and n:
            batches.assert_labels(self._labels_of(batch), fields.labels, n)
        if self._settings.mixes:
            check_real(images, self._settings)
        return n

    def _plan(self, batch: Any, split: Split, *, rows: Tensor | None = None, labels: Tensor | None = None) -> Plan:
        ranks, first = self._rank.count, self._tally.synthetic * self._rank.count + self._rank.index
        positions = torch.arange(first, first + split.synthetic * ranks, ranks)
        real_positions = self._real_positions(split.real, rows)
        key = Key(self._settings.seed, self._epoch, self._step * self._rank.count + self._rank.index)
        try:
            classes = self._choose(batch, positions, labels)
        finally:
            # Also where labels turn out bad: the batches behind stay in step with the indices handed out.
            self._advance(split, replaced=0 if rows is None else split.synthetic)
        return Plan(
            batch=batch,
            fields=self._known_fields,
            synthetic_rows=synthetic_rows(sum(split), split.synthetic) if rows is None else rows,
            labels=classes,
            positions=positions,
            real_positions=real_positions,
            key=key,
            after=self._progress(),
            loading=self.inner.take_seconds(),
        )

    def _progress(self) -> Progress:
        """Return how far the pass has come with all that was planned."""
        held = 0 if self._held is None else self._held[1]
        return Progress(
            epoch=self._epoch,
            step=self._step,
            real=self._real_seen,
            tally=self._tally,
            cursor=self._cursor if self._label_source is None else self._label_source.cursor,
            position=self._latest_position if held else self.inner.position,
            rows=self._latest_rows - held if held else 0,
        )

    def _real_positions(self, count: int, replaced: Tensor | None) -> Tensor:
        """Return the positions of the real rows of the batch to be planned."""
        seen, ranks = self._real_seen, self._rank.count
        if replaced is None:
            first = seen * ranks + self._rank.index
            return torch.arange(first, first + count * ranks, ranks)
        return ((~replaced).nonzero()[:, 0] + seen) * ranks + self._rank.index

    @property
    def _known_fields(self) -> Fields:
        if self._fields is None:
            raise RuntimeError("fields are known only once a batch was seen")
        return self._fields

    def _advance(self, split: Split, *, replaced: int = 0) -> None:
        self._tally = self._tally.after(self._fraction, split)
        self._real_seen += split.real + replaced
        self._step += 1

    def _take(self, batch: Any, n: int, rows: Tensor) -> Any:
        """Return the batch with only these rows in every column."""
        values = {
            path: batches.take(value, rows)
            for path, value in self._columns(batch, n)
            if path not in self._constants and batches.is_column(value, n)
        }
        images = batches.get(batch, self._known_fields.images)
        if not len(rows) and n and not isinstance(images, Tensor):
            # An empty list would not tell dtype, channels and device any more.
            values[self._known_fields.images] = images[0].new_empty((0, *images[0].shape))
        return batches.replace(batch, values)

    def _columns(self, batch: Any, n: int) -> Iterator[tuple[batches.Path, Any]]:
        return batches.columns(batch, n, self._known_fields.images)

    def _choose(self, batch: Any, positions: Tensor, fixed: Tensor | None) -> Tensor | None:
        """Return the classes to draw: those of the replaced rows, or what the label policy says."""
        num_classes = getattr(self._settings.synthesizer, "num_classes", None)
        if not self._settings.mixes or num_classes is None:
            return None
        if fixed is not None:
            return fixed
        if self._label_source is None:
            self._label_source = LabelSource(
                self._settings.labels, num_classes, seed=self._settings.seed, epoch=self._epoch
            )
            self._label_source.cursor = self._cursor
        real = self._classes(batch) if self._labels_of(batch) is not None else torch.empty(0, dtype=torch.int64)
        return self._label_source.draw(real, positions)

    def _labels_of(self, batch: Any) -> Any:
        path = self._known_fields.labels
        return None if path is None else batches.get(batch, path)

    def _classes(self, batch: Any) -> Tensor:
        """Return the real rows' classes, ``(R,)`` int64 on the CPU; of probabilities one class each is drawn."""
        labels = torch.as_tensor(self._labels_of(batch)).cpu()
        num_classes = self._settings.synthesizer.num_classes
        if labels.ndim == 2:
            if labels.shape[1] != num_classes:
                raise ValueError(f"real labels have {labels.shape[1]} classes, but the synthesizer has {num_classes}")
            if not len(labels):
                return torch.empty(0, dtype=torch.int64)
            self._check_soft(labels)
            positions = self._real_positions(len(labels), None)
            draws = rng.uniform(self._settings.seed, "loader.soft_labels", self._epoch, positions)
            return (draws[:, None] >= labels.float().cumsum(1)).sum(1).clamp(max=num_classes - 1)
        check_labels(labels, num_classes, what=f"real labels (the synthesizer has {num_classes} classes)")
        return labels.to(torch.int64)

    def _check_soft(self, labels: Tensor) -> None:
        path = self._known_fields.labels or ()
        key = path[0] if len(path) == 1 else path
        check_probabilities(
            labels,
            what=f"labels at {batches.show(path)}, beside synthetic ones,",
            otherwise="for other numbers, as where an image has several classes or a measurement, deny labels with "
            f"fields={{'labels': None, 'fill': {{{key!r}: ...}}}}",
        )
