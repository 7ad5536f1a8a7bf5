"""Where images, labels and targets sit in a user's batch; take it apart, put it back.

A batch is whatever a ``collate_fn`` returns: nested dicts, tuples, lists, NamedTuples and dataclasses around *leaves*.
A leaf is found by its *path*, the keys and indices that lead to it. A leaf with one entry per item is a *column*: a
tensor or array whose first dimension is N, or a list or tuple of N things. All other leaves are constants.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Key = str | int
Path = tuple[Key, ...]
Images = Tensor | list[Tensor]

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

# Leaves listed in an error message, at the most.
_MOST_SHOWN = 8


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


def as_path(key: Any) -> Path:
    """Return a key, an index or a tuple of them as a path."""
    return key if isinstance(key, tuple) else (key,)


def count(images: Images) -> int:
    """Return how many images there are."""
    return len(images)


def get(batch: Any, path: Path) -> Any:
    """Return the leaf at ``path``; the empty path is the batch itself."""
    for key in path:
        batch = getattr(batch, str(key)) if _is_record(batch) and isinstance(key, str) else batch[key]
    return batch


def columns(batch: Any, n: int, images: Path | None = None) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of all leaves of a batch of ``n`` items: columns and constants.

    A list on the way to ``images`` holds fields and not items, also where it happens to be ``n`` long.
    """

    def stop(path: Path, value: Sequence[Any]) -> bool:
        if images is not None and path == images[: len(path)]:
            return path == images
        return _is_column_list(value, n)

    return _leaves(batch, (), stop)


def is_column(value: Any, n: int) -> bool:
    """Say whether a leaf has one entry for each of ``n`` items."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and len(value) == n
    return _is_sequence(value) and len(value) == n


def replace(batch: Any, values: Mapping[Path, Any]) -> Any:
    """Return a copy of a batch, in its own structure and types, with other leaves at the given paths."""
    if () in values:
        return values[()]
    by_key: dict[Key, dict[Path, Any]] = {}
    for (key, *rest), value in values.items():
        by_key.setdefault(key, {})[tuple(rest)] = value
    return _assign(batch, {key: replace(get(batch, (key,)), inner) for key, inner in by_key.items()})


def add(batch: Any, name: str, value: Any) -> Any:
    """Return a copy of a batch with one more field at its top level.

    A dict gains a key, a tuple or list a last element; NamedTuples and dataclasses must have the field already.

    Raises:
        ValueError: a NamedTuple or dataclass without the field, a dict that has the key already, or no structure.
    """
    if _is_record(batch):
        if not hasattr(batch, name):
            raise ValueError(f"tag={name!r} needs a field of that name in {type(batch).__name__}: add it to the class")
        return _assign(batch, {name: value})
    if isinstance(batch, Mapping):
        if name in batch:
            raise ValueError(f"tag={name!r} is a field of the batch already; choose another name")
        return _assign(batch, {name: value})
    if isinstance(batch, list | tuple):
        return type(batch)([*batch, value])
    raise ValueError(f"tag={name!r} needs a batch with fields, got a bare {type(batch).__name__}: return (images,)")


def take(column: Any, rows: Tensor) -> Any:
    """Return the given rows, an ``(M,)`` int64 tensor, of a column as a column of the same type."""
    if isinstance(column, Tensor):
        return column[rows.to(column.device)]
    if isinstance(column, np.ndarray):
        return column[rows.numpy()]
    return type(column)([column[row] for row in rows.tolist()])


def concatenate(parts: Sequence[Any]) -> Any:
    """Join columns of one field, of the first one's type.

    Raises:
        ValueError: shapes that cannot be joined.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"rows of different shapes cannot be joined, got {' and '.join(map(str, shapes))}")
        return torch.cat(list(parts))
    if isinstance(first, np.ndarray):
        return np.concatenate(list(parts))
    return type(first)([item for part in parts for item in part])


def spread(column: Any, rows: Tensor, n: int, fill: Any) -> Any:
    """Place a column's entries at ``rows`` of a column of ``n``, and ``fill`` everywhere else."""
    if isinstance(column, Tensor):
        wide = column.new_empty((n, *column.shape[1:]))
        wide[:] = torch.as_tensor(fill, dtype=column.dtype, device=column.device)
        wide[rows.to(column.device)] = column
        return wide
    if isinstance(column, np.ndarray):
        array = np.empty((n, *column.shape[1:]), dtype=column.dtype)
        array[:] = fill
        array[rows.numpy()] = column
        return array
    items = [fill] * n
    for row, item in zip(rows.tolist(), column, strict=True):
        items[row] = item
    return type(column)(items)


def move(batch: Any, device: torch.device) -> Any:
    """Return the batch with all its tensors on ``device``; copies to a CUDA device go through pinned memory."""
    moved = {path: to_device(value, device) for path, value in _leaves(batch, (), _never) if isinstance(value, Tensor)}
    return replace(batch, moved)


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield all tensors in a batch."""
    return (value for _, value in _leaves(batch, (), _never) if isinstance(value, Tensor))


def describe(batch: Any) -> str:
    """List a batch's leaves with their types, for error messages."""
    shown = [f"{show(path)}: {describe_leaf(value)}" for path, value in _leaves(batch, (), _ends_in_images)]
    if len(shown) > _MOST_SHOWN:
        shown[_MOST_SHOWN:] = [f"and {len(shown) - _MOST_SHOWN} more"]
    return "; ".join(shown) or f"an empty {type(batch).__name__}"


def assert_images(images: Any, path: Path) -> None:
    """Raise ``ValueError`` where a field that is taken for the images does not hold any."""
    if (is_images(images) or _is_image_list(images)) and not _is_channels_last(images):
        return
    raise ValueError(
        f"images at {show(path)} must be (N, C, H, W) uint8 or floating, or a list of (C, H, W), "
        f"got {describe_leaf(images)}{_image_hint(images, show(path))}"
    )


def assert_labels(labels: Any, path: Path, n: int) -> None:
    """Raise ``ValueError`` where a field that is taken for the labels of ``n`` images does not hold them."""
    if not (is_labels(labels) and is_column(labels, n)):
        raise ValueError(
            f"labels at {show(path)} must be class indices (N,) or probabilities (N, K) for N={n} images, "
            f"got {describe_leaf(labels)}"
        )


def is_images(value: Any) -> bool:
    """Say whether a value is a tensor of images ``(N, C, H, W)``, uint8 or floating."""
    return isinstance(value, Tensor) and value.ndim == 4 and _has_pixels(value)


def _has_pixels(value: Tensor) -> bool:
    return value.dtype is torch.uint8 or value.is_floating_point()


def _is_image_list(value: Any) -> bool:
    """Say whether a value is a list of images ``(C, H, W)`` whose sizes may differ."""
    return (
        _is_sequence(value)
        and len(value) > 0
        and all(isinstance(item, Tensor) and item.ndim == 3 and _has_pixels(item) for item in value)
    )


def _is_column_list(value: Sequence[Any], n: int) -> bool:
    """Tell a list with one entry per item from a list of fields, whose tensors each have ``n`` rows."""
    if len(value) != n:
        return False
    fields = [is_column(item, n) for item in value]
    # Entries of one column are of one type, so a column beside something else is a field.
    mixed = any(fields) and len({type(item) for item in value}) > 1
    return (not (fields and all(fields)) and not mixed) or _is_image_list(value)


def _find_images(batch: Any) -> Path:
    leaves = dict(_leaves(batch, (), _ends_in_images))
    candidates = [path for path, value in leaves.items() if is_images(value) or _is_image_list(value)]
    named = [path for path in candidates if _name(path) in _NAMES["images"]]
    unnamed = [path for path in candidates if not any(_name(path) in _NAMES[role] for role in TARGETS)]
    found = named or unnamed
    if len(found) == 1:
        return found[0]
    if not found:
        hints = (_image_hint(value, show(path)) for path, value in leaves.items())
        raise ValueError(
            "the batch has no images, which are (N, C, H, W) uint8 or floating, or a list of (C, H, W); "
            f"it has {describe(batch)}{next(filter(None, hints), '')}"
        )
    several = " and ".join(show(path) for path in found)
    raise ValueError(f"the batch has several fields that may be the images, {several}: name one with fields=")


def _image_hint(value: Any, where: str) -> str:
    """Return what would make images of a value that looks as if it were meant to be some, to be put behind an error."""
    if isinstance(value, Tensor):
        if _is_channels_last(value):
            return f"; if {where} has its channels last, bring them forward with permute(0, 3, 1, 2)"
        if value.ndim == 4:
            return f"; if {where} holds images, convert integer images to uint8 or to floating in [0, 1]"
        if value.ndim == 3 and _has_pixels(value):
            return f"; if {where} holds grey images, add the channel dimension with unsqueeze(1)"
    if isinstance(value, np.ndarray) and value.ndim >= 3:
        return f"; if {where} holds images, make a tensor of them with torch.from_numpy in the collate_fn"
    if type(value).__module__.split(".")[0] == "PIL":
        return "; make tensors of PIL images in the data set, for example with torchvision.transforms.v2.PILToTensor()"
    return ""


def _is_channels_last(images: Any) -> bool:
    """Say whether a batch is (N, H, W, C): 3 or 4 in the last place, and no number of channels in the second."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        return False
    _, second, third, last = images.shape
    return last in (3, 4) and min(second, third) >= 8


def _find(role: str, leaves: Mapping[Path, Any], images: Path, n: int) -> Path | None:
    """Guess the field of a role by its name, or for labels and masks by its place right after the images."""
    for path, value in leaves.items():
        if path != images and _name(path) in _NAMES[role] and (role != "labels" or _are_labels(value, n)):
            return path
        # Detection data sets give one dict an item, with the boxes in it.
        if role in TARGETS and is_column(value, n) and _is_sequence(value) and _has_key(value, _NAMES[role]):
            return path
    paths = list(leaves)
    follower = paths[paths.index(images) + 1 :][:1]
    if not follower or isinstance(follower[0][-1], str):
        return None
    value = leaves[follower[0]]
    if role == "labels" and _are_labels(value, n):
        return follower[0]
    if role == "masks" and isinstance(value, Tensor) and not value.is_floating_point():
        shape = getattr(leaves[images], "shape", None)
        if shape is not None and value.ndim in (3, 4) and value.shape[-2:] == shape[-2:]:
            return follower[0]
    return None


def is_labels(value: Any) -> bool:
    """Say whether a leaf is a column of labels: integers ``(N,)`` or probabilities ``(N, K)``."""
    if isinstance(value, Tensor):
        hard = value.ndim == 1 and not value.is_floating_point() and value.dtype is not torch.bool
        return hard or (value.ndim == 2 and value.is_floating_point())
    if isinstance(value, np.ndarray):
        return (value.ndim, value.dtype.kind) in ((1, "i"), (1, "u"), (2, "f"))
    return _is_sequence(value) and all(isinstance(item, int | np.integer) and type(item) is not bool for item in value)


def _are_labels(value: Any, n: int) -> bool:
    return is_labels(value) and is_column(value, n)


def _has_key(items: Sequence[Any], names: set[str]) -> bool:
    return any(isinstance(item, Mapping) and any(str(key).lower() in names for key in item) for item in items)


def _leaves(value: Any, path: Path, stop: Callable[[Path, Sequence[Any]], bool]) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of each leaf; a list or tuple for which ``stop`` of both is true is a leaf itself."""
    items: Iterator[tuple[Key, Any]]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif _is_sequence(value) and not stop(path, value):
        items = iter(enumerate(value))
    else:
        yield path, value
        return
    for key, item in items:
        yield from _leaves(item, (*path, key), stop)


def _never(path: Path, value: Sequence[Any]) -> bool:
    return False


def _ends_in_images(path: Path, value: Sequence[Any]) -> bool:
    return _is_image_list(value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple) and not hasattr(value, "_fields")


def _is_record(value: Any) -> bool:
    """Say whether fields are attributes: a NamedTuple or a dataclass."""
    return hasattr(value, "_fields") or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _assign(container: Any, values: Mapping[Key, Any]) -> Any:
    if not values:
        return container
    if hasattr(container, "_fields"):
        return container._replace(**{str(key): value for key, value in values.items()})
    if isinstance(container, tuple):
        return type(container)([values.get(index, item) for index, item in enumerate(container)])
    if isinstance(container, Mapping) and not isinstance(container, MutableMapping):
        return type(container)({**container, **values})  # type: ignore[call-arg]
    changed = copy.copy(container)
    for key, value in values.items():
        if _is_record(changed):
            # A dataclass may be frozen, and its __post_init__ has seen the fields already.
            object.__setattr__(changed, str(key), value)
        else:
            changed[key] = value
    return changed


def _locate(batch: Any, path: Path) -> Path:
    """Return a path as leaves are listed, with field names for a NamedTuple and indices counted from the front."""
    located: list[Key] = []
    part = batch
    try:
        for key in path:
            if isinstance(key, int) and hasattr(part, "_fields"):
                located.append(part._fields[key])
            else:
                located.append(range(len(part))[key] if isinstance(key, int) and _is_sequence(part) else key)
            part = get(part, (located[-1],))
    except (AttributeError, KeyError, IndexError, TypeError):
        raise ValueError(f"fields names {show(path)}, but the batch has only {describe(batch)}") from None
    return tuple(located)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor, in its dtype, without making the host wait for a CUDA device."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.layout is torch.strided:
        # Only from pinned memory the host need not wait; asking for it starts CUDA, so it is asked only here.
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        return pinned.to(device, non_blocking=True)
    return tensor.to(device)


def _name(path: Path) -> str:
    return next((key.lower() for key in reversed(path) if isinstance(key, str)), "")


def show(path: Path) -> str:
    """Return a path as it is written in messages."""
    return "the batch" if not path else ".".join(repr(key) if isinstance(key, str) else str(key) for key in path)


def describe_leaf(value: Any) -> str:
    """Say what a leaf is, for error messages."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} {value.dtype}"
    if _is_image_list(value):
        return f"list of {len(value)} images"
    return type(value).__name__
