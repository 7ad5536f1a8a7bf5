"""Composer: makes a batch of a plan by drawing, transforming, mixing and casting."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchaug_gen import batch as batches
from torchaug_gen.augment.rows import SYNTHETIC, Rows
from torchaug_gen.augment.targets.moving import Target
from torchaug_gen.batch import Images
from torchaug_gen.labels import check_labels, soft_labels
from torchaug_gen.loading.drawing import Prepared, chunk_of, sample
from torchaug_gen.loading.plan import Delivery, Plan, Seconds
from torchaug_gen.loading.settings import Settings
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.range_checks import RangeChecks
from torchaug_gen.synthesis.synthesizer import Synthesizer, check_images


@dataclass(frozen=True)
class Placed:
    """Which rows of a batch are real and which synthetic, ``(R,)`` and ``(S,)`` int64."""

    real: Tensor
    synthetic: Tensor

    @staticmethod
    def of(plan: Plan) -> "Placed":
        """Return the rows of a plan."""
        rows = plan.synthetic_rows.numpy()
        return Placed(torch.from_numpy(np.flatnonzero(~rows)), torch.from_numpy(np.flatnonzero(rows)))

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)


class Composer:
    """Composes batches; holds nothing from one to the next but checks to come, so that it may run in any thread.

    Args:
        settings: the loader's settings.
        device: where batches go, or ``None`` for where they are.
    """

    def __init__(self, settings: Settings, *, device: torch.device | None) -> None:
        self._settings = settings
        self._device = device
        self._checks = RangeChecks()

    def __call__(self, job: Plan | Prepared) -> Delivery:
        """Return the batch of a plan, in the inner loader's own structure and types.

        Args:
            job: the plan, also with its synthetic images, where they were drawn before.
        """
        plan, prepared = (job.plan, job) if isinstance(job, Prepared) else (job, None)
        seconds, start = Seconds(loading=plan.loading), time.perf_counter()
        batch = self._compose(plan, seconds, None if prepared is None else prepared.images)
        seconds.transforming = time.perf_counter() - start - seconds.drawing
        seconds.drawing += 0.0 if prepared is None else prepared.seconds
        # The plan is not kept: it holds the inner loader's batch, which is not needed any more.
        return Delivery(
            batch,
            plan.real,
            plan.synthetic,
            plan.after,
            seconds,
            real_classes=_hard_labels(plan),
            synthetic_classes=plan.labels,
            chunk=chunk_of(self._settings.synthesizer),
        )

    def finish(self) -> None:
        """Raise what is found out about images only now; on CUDA that waits for the device."""
        self._checks.finish()

    def _compose(self, plan: Plan, seconds: Seconds, images_drawn: Tensor | None) -> Any:
        rows = Placed.of(plan)
        drawn, classes = None, None
        if plan.synthetic:
            start = time.perf_counter()
            drawn, classes = self._draw(plan, batches.get(plan.batch, plan.fields.images), images_drawn)
            seconds.drawing = time.perf_counter() - start
        # Labels and other columns are made complete where they are, on the host, and then copied.
        values = self._widened(plan, rows)
        labels_path = plan.fields.labels
        if labels_path is not None:
            real = batches.get(plan.batch, labels_path)
            labels = self._labels(real, classes, rows)
            if labels is not real:
                values[labels_path] = labels
        batch = batches.replace(plan.batch, values) if values else plan.batch
        if self._device is not None:
            batch = batches.move(batch, self._device)
        images, values = batches.get(batch, plan.fields.images), {}
        parts = [Rows(images, rows.real, plan.real_positions)]
        if drawn is not None:
            parts.append(Rows(drawn, rows.synthetic, plan.positions | SYNTHETIC))
        labels = None if labels_path is None else batches.get(batch, labels_path)
        targets = {path: Target(role, batches.get(batch, path)) for role, path in plan.fields.targets.items()}
        result, _ = self._settings.program(parts, _as_tensor(labels), plan.key, targets=targets)
        images, mixed = result.images, result.labels
        values |= result.targets
        values[plan.fields.images] = self._contained(self._cast(images), plan.fields.container)
        if labels_path is not None:
            # A list of labels stays one, unless blending made probabilities of it.
            values[labels_path] = mixed if self._settings.program.mixes_labels or isinstance(labels, Tensor) else labels
        batch = batches.replace(batch, values)
        if self._settings.tag is None:
            return batch
        device = images.device if isinstance(images, Tensor) else images[0].device
        return batches.add(batch, self._settings.tag, batches.to_device(plan.synthetic_rows, device))

    def _draw(self, plan: Plan, real: Images, already: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the plan's synthetic images, beside the real ones and like them, and their classes."""
        synthesizer = self._settings.synthesizer
        if already is None:
            with self._checks:
                drawn = sample(synthesizer, plan)
                images, classes = drawn if isinstance(synthesizer, Synthesizer) else self._checked(drawn, plan)
        else:
            images, classes = already, plan.labels
        channels = real.shape[1] if isinstance(real, Tensor) else real[0].shape[0] if real else images.shape[1]
        if images.shape[1] != channels:
            raise ValueError(f"real images have {channels} channels, but synthetic ones have {images.shape[1]}")
        if self._device is not None:
            device = self._device
        else:
            device = real.device if isinstance(real, Tensor) else real[0].device if real else images.device
        # What was asked for is on the host already.
        return batches.to_device(images, device), plan.labels if isinstance(synthesizer, Synthesizer) else classes

    def _checked(self, drawn: Any, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Return what a synthesizer that is not ours drew, or raise where it is not images and labels."""
        if not (isinstance(drawn, tuple) and len(drawn) == 2 and isinstance(drawn[0], Tensor)):
            raise TypeError(f"the synthesizer must return a tensor and labels or None, got {type(drawn).__name__}")
        images, classes = drawn
        images = check_images(images, (plan.synthetic, *images.shape[1:]), plan.positions)
        if classes is None:
            return images, plan.labels
        if not isinstance(classes, Tensor) or classes.shape != (plan.synthetic,) or classes.is_floating_point():
            got = f"{tuple(classes.shape)} {classes.dtype}" if isinstance(classes, Tensor) else type(classes).__name__
            raise ValueError(f"the synthesizer must return ({plan.synthetic},) labels, got {got}")
        if self._settings.num_classes is not None:
            check_labels(classes, self._settings.num_classes, what="labels from the synthesizer")
        return images, classes

    def _labels(self, real: Any, classes: Tensor | None, rows: Placed) -> Any:
        """Return the labels of all rows, of the real ones' type: class indices or probabilities."""
        num_classes = self._settings.num_classes
        if self._settings.program.mixes_labels and not isinstance(real, Tensor):
            return self._labels(torch.as_tensor(real), classes, rows)
        if isinstance(real, np.ndarray):
            return self._labels(torch.from_numpy(real), classes, rows).numpy()
        if not isinstance(real, Tensor):
            wanted = batches.spread(real, rows.real, len(rows), 0)
            if classes is not None:
                wanted = list(wanted)
                for row, label in zip(rows.synthetic.tolist(), classes.tolist(), strict=True):
                    wanted[row] = label
            return type(real)(wanted)
        if self._settings.program.mixes_labels:
            real = soft_labels(real, num_classes)
        if classes is None:
            return real
        if classes.is_cuda:
            real = batches.to_device(real, classes.device)
        classes = batches.to_device(classes, real.device)
        synthetic = classes if real.ndim == 1 else F.one_hot(classes, real.shape[1])
        labels = real.new_empty(len(real) + len(classes), *real.shape[1:])
        batches.put(labels, rows.real, real)
        batches.put(labels, rows.synthetic, synthetic.to(real.dtype))
        return labels

    def _widened(self, plan: Plan, rows: Placed) -> dict[batches.Path, Any]:
        """Return the columns that synthetic rows get a fill value in."""
        if not plan.synthetic:
            return {}
        return {
            path: batches.spread(batches.get(plan.batch, path), rows.real, len(rows), fill)
            for path, fill in plan.fields.fill.items()
        }

    def _contained(self, images: Images, container: type) -> Any:
        """Return images as they came: in a list or tuple, unless stages have made one tensor of them."""
        if container is Tensor or (isinstance(images, Tensor) and self._settings.program.fixes_size):
            return images
        return container(images)

    def _cast(self, images: Images) -> Images:
        """Return images as they are delivered."""
        if isinstance(images, Tensor):
            return convert(images, self._settings.dtype).contiguous(memory_format=self._settings.memory_format)
        return [convert(image, self._settings.dtype) for image in images]


def _as_tensor(labels: Any) -> Tensor | None:
    return None if labels is None else torch.as_tensor(labels)


def _hard_labels(plan: Plan) -> Tensor | None:
    """Return the classes of a plan's real items, where they are known without waiting for a device."""
    labels = None if plan.fields.labels is None else batches.get(plan.batch, plan.fields.labels)
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.device.type != "cpu":
        return None
    # NumPy starts in a fifth of the time.
    return None if len(labels) and labels.numpy().min() < 0 else labels
