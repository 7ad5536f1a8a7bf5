"""Fields: where images, labels and targets sit in a batch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchaug_gen.batch.columns import columns, is_column
from torchaug_gen.batch.describing import describe, describe_leaf, ends_in_images, image_hint
from torchaug_gen.batch.images import count, is_channels_last, is_image_list, is_images
from torchaug_gen.batch.labels import are_labels, is_labels
from torchaug_gen.batch.structure import Key, Path, as_path, get, is_sequence, last_name, leaves_of, show

TARGETS = ("masks", "boxes", "keypoints")
ROLES = ("images", "labels", *TARGETS)
# What a field is usually called, by its role.
_NAMES = {
    "images": {
        "image",
        "images",
        "img",
        "imgs",
        "input",
        "inputs",
        "pixel_values",
        "x",
        "jpg",
        "jpeg",
        "png",
        "webp",
    },
    "labels": {"label", "labels", "target", "targets", "class", "classes", "cls", "y"},
    "masks": {"mask", "masks", "segmentation", "segmentation_mask", "pixel_mask"},
    "boxes": {"box", "boxes", "bbox", "bboxes"},
    "keypoints": {"keypoint", "keypoints", "landmark", "landmarks"},
}


@dataclasses.dataclass(frozen=True)
class Fields:
    """The paths of the fields that mean something to the loader, and what to fill others with in synthetic rows.

    ``container`` is what holds the images: a tensor, or a list or tuple of images whose sizes may differ.
    """

    images: Path
    labels: Path | None = None
    targets: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    fill: Mapping[Path, Any] = dataclasses.field(default_factory=dict)
    container: type = Tensor


def find_fields(batch: Any, fields: Mapping[str, Any] | None = None) -> Fields:
    """Say where images, labels and targets are in a batch.

    Args:
        batch: what the inner loader delivers.
        fields: paths by role (``images``, ``labels``, ``masks``, ``boxes``, ``keypoints``): a key, an index, or a tuple
            of them, or ``None`` for a role that no field has; roles left out are guessed. ``fill`` maps paths to
            the value that synthetic rows get there.

    Raises:
        ValueError: no images or more than one candidate for them, a path that leads nowhere, an unknown role, and
            named images or labels that are none.
    """
    given = dict(fields or {})
    check_roles(given)
    fill = {as_path(key): value for key, value in given.pop("fill", {}).items()}
    named = {role: None if key is None else as_path(key) for role, key in given.items()}
    named = {role: None if path is None else _locate(batch, path) for role, path in named.items()}
    fill = {_locate(batch, path): value for path, value in fill.items()}
    images = named.get("images")
    if images is None:
        images = _find_images(batch)
    assert_images(get(batch, images), images)
    n = count(get(batch, images))
    leaves = dict(columns(batch, n, images))
    roles = {role: path for role in ROLES[1:] if (path := named.get(role, _find(role, leaves, images, n))) is not None}
    labels = roles.pop("labels", None)
    if labels is not None:
        assert_labels(get(batch, labels), labels, n)
    found = get(batch, images)
    return Fields(images, labels, roles, fill, Tensor if isinstance(found, Tensor) else type(found))


def check_roles(fields: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where ``fields`` names a role that there is not, no images, or fill values without paths."""
    unknown = set(fields) - {*ROLES, "fill"}
    if unknown:
        raise ValueError(f"fields must name {', '.join(ROLES)} or fill, got {', '.join(sorted(map(repr, unknown)))}")
    if "images" in fields and fields["images"] is None:
        raise ValueError("fields must say where images are, or leave them out to be guessed, got images=None")
    if not isinstance(fields.get("fill", {}), Mapping):
        raise ValueError(f"fields['fill'] must map fields to values, got {fields['fill']!r}")


def assert_images(images: Any, path: Path) -> None:
    """Raise ``ValueError`` where a field that is taken for the images does not hold any."""
    if (is_images(images) or is_image_list(images)) and not is_channels_last(images):
        return
    raise ValueError(
        f"images at {show(path)} must be (N, C, H, W) uint8 or floating, or a list of (C, H, W), "
        f"got {describe_leaf(images)}{image_hint(images, show(path))}"
    )


def assert_labels(labels: Any, path: Path, n: int) -> None:
    """Raise ``ValueError`` where a field that is taken for the labels of ``n`` images does not hold them."""
    if not (is_labels(labels) and is_column(labels, n)):
        raise ValueError(
            f"labels at {show(path)} must be class indices (N,) or probabilities (N, K) for N={n} images, "
            f"got {describe_leaf(labels)}"
        )


def _find_images(batch: Any) -> Path:
    leaves = dict(leaves_of(batch, (), ends_in_images))
    candidates = [path for path, value in leaves.items() if is_images(value) or is_image_list(value)]
    named = [path for path in candidates if last_name(path) in _NAMES["images"]]
    unnamed = [path for path in candidates if not any(last_name(path) in _NAMES[role] for role in TARGETS)]
    found = named or unnamed
    if len(found) == 1:
        return found[0]
    if not found:
        hints = (image_hint(value, show(path)) for path, value in leaves.items())
        raise ValueError(
            "the batch has no images, which are (N, C, H, W) uint8 or floating, or a list of (C, H, W); "
            f"it has {describe(batch)}{next(filter(None, hints), '')}"
        )
    several = " and ".join(show(path) for path in found)
    raise ValueError(f"the batch has several fields that may be the images, {several}: name one with fields=")


def _find(role: str, leaves: Mapping[Path, Any], images: Path, n: int) -> Path | None:
    """Guess the field of a role by its name, or for labels and masks by its place right after the images."""
    for path, value in leaves.items():
        if path != images and last_name(path) in _NAMES[role] and (role != "labels" or are_labels(value, n)):
            return path
        # Detection data sets give one dict an item, with the boxes in it.
        if role in TARGETS and is_column(value, n) and is_sequence(value) and _has_key(value, _NAMES[role]):
            return path
    paths = list(leaves)
    follower = paths[paths.index(images) + 1 :][:1]
    if not follower or isinstance(follower[0][-1], str):
        return None
    value = leaves[follower[0]]
    if role == "labels" and are_labels(value, n):
        return follower[0]
    if role == "masks" and isinstance(value, Tensor) and not value.is_floating_point():
        shape = getattr(leaves[images], "shape", None)
        if shape is not None and value.ndim in (3, 4) and value.shape[-2:] == shape[-2:]:
            return follower[0]
    return None


def _has_key(items: Sequence[Any], names: set[str]) -> bool:
    return any(isinstance(item, Mapping) and any(str(key).lower() in names for key in item) for item in items)


def _locate(batch: Any, path: Path) -> Path:
    """Return a path as leaves are listed, with field names for a NamedTuple and indices counted from the front."""
    located: list[Key] = []
    part = batch
    try:
        for key in path:
            if isinstance(key, int) and hasattr(part, "_fields"):
                located.append(part._fields[key])
            else:
                located.append(range(len(part))[key] if isinstance(key, int) and is_sequence(part) else key)
            part = get(part, (located[-1],))
    except (AttributeError, KeyError, IndexError, TypeError):
        raise ValueError(f"fields names {show(path)}, but the batch has only {describe(batch)}") from None
    return tuple(located)
