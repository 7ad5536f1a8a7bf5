"""Composer: makes a batch of a plan by drawing, transforming, mixing and casting."""

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
from torchaug_gen.loading.plan import Plan
from torchaug_gen.loading.settings import Settings
from torchaug_gen.pixels import convert
from torchaug_gen.synthesis.synthesizer import Synthesizer, check_images


class Composer:
    """Composes batches; holds nothing from one to the next, so that it may run in any thread.

    Args:
        settings: the loader's settings.
        device: where batches go, or ``None`` for where they are.
    """

    def __init__(self, settings: Settings, *, device: torch.device | None) -> None:
        self._settings = settings
        self._device = device

    def __call__(self, plan: Plan) -> Any:
        """Return the batch of a plan, in the inner loader's own structure and types."""
        batch = plan.batch if self._device is None else batches.move(plan.batch, self._device)
        images = batches.get(batch, plan.fields.images)
        parts = [Rows(images, (~plan.synthetic_rows).nonzero()[:, 0], plan.real_positions)]
        classes = None
        if plan.synthetic:
            drawn, classes = self._draw(plan, images)
            parts.append(Rows(drawn, plan.synthetic_rows.nonzero()[:, 0], plan.positions | SYNTHETIC))
        values = self._widened(batch, plan)
        labels_path = plan.fields.labels
        labels = None if labels_path is None else self._labels(batches.get(batch, labels_path), classes, parts)
        targets = {
            path: Target(role, values.get(path, batches.get(batch, path))) for role, path in plan.fields.targets.items()
        }
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
        return batches.add(batch, self._settings.tag, plan.synthetic_rows.to(device))

    def _draw(self, plan: Plan, real: Images) -> tuple[Tensor, Tensor | None]:
        """Return the plan's synthetic images, beside the real ones and like them, and their classes."""
        synthesizer, seed, epoch = self._settings.synthesizer, plan.key.seed, plan.key.epoch
        if plan.labels is None:
            drawn = synthesizer.sample(plan.synthetic, seed=seed, epoch=epoch, positions=plan.positions)
        else:
            drawn = synthesizer.sample(labels=plan.labels, seed=seed, epoch=epoch, positions=plan.positions)
        images, classes = drawn if isinstance(synthesizer, Synthesizer) else self._checked(drawn, plan)
        channels = real.shape[1] if isinstance(real, Tensor) else real[0].shape[0] if real else images.shape[1]
        if images.shape[1] != channels:
            raise ValueError(f"real images have {channels} channels, but synthetic ones have {images.shape[1]}")
        if self._device is not None:
            device = self._device
        else:
            device = real.device if isinstance(real, Tensor) else real[0].device if real else images.device
        return images.to(device), classes

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

    def _labels(self, real: Any, classes: Tensor | None, parts: list[Rows]) -> Any:
        """Return the labels of all rows, of the real ones' type: class indices or probabilities."""
        num_classes = self._settings.num_classes
        if self._settings.program.mixes_labels and not isinstance(real, Tensor):
            return self._labels(torch.as_tensor(real), classes, parts)
        if isinstance(real, np.ndarray):
            return self._labels(torch.from_numpy(real), classes, parts).numpy()
        if not isinstance(real, Tensor):
            wanted = batches.spread(real, parts[0].rows, sum(len(part.rows) for part in parts), 0)
            if classes is not None:
                wanted = list(wanted)
                for row, label in zip(parts[1].rows.tolist(), classes.tolist(), strict=True):
                    wanted[row] = label
            return type(real)(wanted)
        if self._settings.program.mixes_labels:
            real = soft_labels(real, num_classes)
        if classes is None:
            return real
        classes = classes.to(real.device)
        synthetic = classes if real.ndim == 1 else F.one_hot(classes, real.shape[1])
        labels = real.new_empty(len(real) + len(classes), *real.shape[1:])
        labels[parts[0].rows.to(real.device)] = real
        labels[parts[1].rows.to(real.device)] = synthetic.to(real.dtype)
        return labels

    def _widened(self, batch: Any, plan: Plan) -> dict[batches.Path, Any]:
        """Return the columns that synthetic rows get a fill value in."""
        rows = (~plan.synthetic_rows).nonzero()[:, 0]
        if not plan.synthetic:
            return {}
        return {
            path: batches.spread(batches.get(batch, path), rows, len(plan.synthetic_rows), fill)
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
