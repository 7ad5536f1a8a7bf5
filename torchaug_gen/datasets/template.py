"""Template: what a synthetic item has to look like to stand beside real ones."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from torchaug_gen import batch as batches
from torchaug_gen.labels import check_labels, check_probabilities
from torchaug_gen.pixels import convert, outside


class Template:
    """Turns drawn images and labels into items of the structure, dtype and types of a real item."""

    def __init__(self, item: Any, synthesizer: Any) -> None:
        self._item = item
        try:
            batch = default_collate([item])
        except TypeError as error:
            raise ValueError(
                "real items must be tensors or structures of them to have synthetic ones beside them: add a transform "
                f"such as torchvision.transforms.v2.PILToTensor() to the real data set ({error})"
            ) from None
        fields = batches.find_fields(batch)
        self._images, self._labels = fields.images, fields.labels
        others = [path for path, _ in batches.columns(batch, 1) if path not in (self._images, self._labels)]
        if others:
            raise ValueError(
                "synthetic items have an image and a label, but real ones also have "
                + ", ".join(map(batches.show, others))
            )
        if self._labels is not None and getattr(synthesizer, "num_classes", None) is None:
            raise ValueError("real items have labels, but the synthesizer has no classes: give it num_classes")
        self._num_classes: int | None = getattr(synthesizer, "num_classes", None)
        self.check(item)

    def check(self, item: Any) -> None:
        """Raise ``ValueError`` where a real item's pixels or label do not go with what the synthesizer draws."""
        if self._labels is not None and self._num_classes is not None:
            label = torch.as_tensor(batches.get(item, self._labels))
            if label.ndim == 0:
                known = f"real labels (the synthesizer has {self._num_classes} classes)"
                check_labels(label[None], self._num_classes, what=known)
            elif label.is_floating_point():
                otherwise = "mix other numbers in a loader, with AugmentedLoader's fields={'labels': None, 'fill': ...}"
                check_probabilities(label[None], what="labels of real items", otherwise=otherwise)
        if span := outside(batches.get(item, self._images)):
            raise ValueError(
                f"real images must be in [0, 1] to have synthetic ones beside them, got {span}: normalise after "
                "mixing, for example in AugmentedLoader's transform"
            )

    def items(self, images: Tensor, labels: Tensor | None) -> list[Any]:
        """Return drawn images ``(S, C, H, W)`` and their classes ``(S,)`` as items."""
        like = batches.get(self._item, self._images)
        if images.shape[1:] != like.shape:
            raise ValueError(
                f"real and synthetic images must have one size, got {tuple(like.shape)} and {tuple(images.shape[1:])}"
            )
        images = convert(images, like.dtype).cpu()
        if self._labels is None or labels is None:
            return [batches.replace(self._item, {self._images: image}) for image in images]
        return [
            batches.replace(self._item, {self._images: image, self._labels: self._label(label)})
            for image, label in zip(images, labels.tolist(), strict=True)
        ]

    def _label(self, label: int) -> Any:
        like = batches.get(self._item, self._labels or ())
        if not isinstance(like, Tensor):
            return type(like)(label)
        if like.ndim == 1:
            return torch.nn.functional.one_hot(torch.tensor(label), len(like)).to(like.dtype)
        return torch.tensor(label, dtype=like.dtype)
