"""fuse: a list of Kornia and torchvision transforms as one function of whole batches."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.fused import BACKENDS, FusedStage, channels_of
from torchaug_gen.augment.operation import Filter, parameter_names
from torchaug_gen.augment.plan import Plan
from torchaug_gen.augment.program import Program, Record
from torchaug_gen.augment.rows import Key, Rows
from torchaug_gen.augment.targets.boxes import FORMATS
from torchaug_gen.augment.targets.keypoints import ORIGINS, OUTSIDE
from torchaug_gen.augment.targets.moving import Target, TargetOptions
from torchaug_gen.augment.targets.tv import kind
from torchaug_gen.batch import Images
from torchaug_gen.pixels import check_dtype
from torchaug_gen.rng import check_epoch, check_seed

_INTERPOLATIONS = {None: None, "nearest": Filter.NEAREST, "bilinear": Filter.BILINEAR}
_ROLES = {"Mask": "masks", "BoundingBoxes": "boxes", "KeyPoints": "keypoints"}


def fuse(
    transform: Any,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    interpolation: str | None = None,
    antialias: bool | None = None,
    box_format: str = "xyxy",
    min_area: float = 0.0,
    min_visibility: float = 0.0,
    mask_fill: float = 0.0,
    keypoint_origin: str = "centre",
    keypoints_outside: str = "keep",
) -> "FusedTransform":
    """Compile transforms into a program that runs as few passes over the pixels as can be.

    Flips, crops, resizes, rotations, shears, translations, affine and perspective maps next to each other become one
    homography per sample, and one resampling; colour, noise and erasing follow in the same pass, each sample with its
    own parameters and its own order. What cannot be fused runs as it is, in its place: on the batch, but torchvision's
    v2 transforms beside targets sample by sample, since that is how they move them.

    Args:
        transform: a Kornia module or container, a torchvision v2 transform, a callable on ``(N, C, H, W)`` images,
            :class:`torchaug_gen.MixUp` or :class:`torchaug_gen.CutMix`, or a list of these.
        backend: ``"cpu"`` (compiled by Numba), ``"cuda"`` (Triton), ``"reference"`` (PyTorch, differentiable), or
            ``"auto"``: the images' device decides, and ``"reference"`` where they need gradients or are float64.
        dtype: of the resulting images; ``None`` keeps what comes. uint8 to floating divides by 255, floating to uint8
            rounds.
        memory_format: of the resulting images, ``torch.contiguous_format`` or ``torch.channels_last``.
        interpolation: ``"nearest"`` or ``"bilinear"`` for all warps; ``None``: as each module does.
        antialias: whether warps antialias where they shrink; ``None``: as each module does.
        box_format: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``; torchvision's ``BoundingBoxes`` know theirs.
        min_area: boxes that come out smaller, in pixels, are gone: removed from dicts with all that belongs to them,
            zeros in tensors and lists of nothing but boxes.
        min_visibility: boxes of which a smaller share remains in the image are gone, in [0, 1].
        mask_fill: the value of masks outside of the image, where images are filled.
        keypoint_origin: whether (0, 0) is the ``"centre"`` or the ``"corner"`` of the first pixel.
        keypoints_outside: ``"keep"``, ``"drop"`` or ``"flag"`` keypoints that leave the image.

    Raises:
        TypeError: a transform that is not callable, a dtype that images cannot have.
        ValueError: an unknown option; normalised images as integers; a colour operation on a number of channels that
            it is not made for, on the first call.

    Example:
        >>> from torchvision.transforms import v2
        >>> transform = fuse([v2.RandomResizedCrop(24), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)])
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> transform(images, seed=0, epoch=0).shape
        torch.Size([8, 3, 24, 24])
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(f'interpolation must be "nearest", "bilinear" or None, got {interpolation!r}')
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(f"memory_format must be torch.contiguous_format or torch.channels_last, got {memory_format}")
    _check_target_options(box_format, min_area, min_visibility, keypoint_origin, keypoints_outside)
    options = TargetOptions(box_format, min_area, min_visibility, mask_fill, keypoint_origin, keypoints_outside)
    program = Program(
        transform,
        dtype=check_dtype(dtype),
        memory_format=memory_format,
        backend=backend,
        interpolation=_INTERPOLATIONS[interpolation],
        antialias=antialias,
        targets=options,
    )
    return FusedTransform(program, options)


@dataclass(frozen=True)
class Parameters:
    """What was drawn for a batch: pass it back as ``parameters=`` to get the same result, bit for bit.

    Attributes:
        seed: of the draws, which opaque stages, mixes and pixel noise use again.
        epoch: of the draws.
        positions: ``(N,)`` int64.
        operations: for each fused operation in order its name and parameters by name, each ``(N,)`` float64: views,
            so that writing into them changes what is passed back. Angles are in degrees, lengths in pixels;
            ``active`` is 1 where the operation acts.
    """

    seed: int
    epoch: int
    positions: Tensor
    operations: list[tuple[str, dict[str, Tensor]]]
    _program: Program
    _record: Record

    @property
    def matrix(self) -> Tensor:
        """``(N, 3, 3)`` float64, from pixels of the input to pixels of the output, as they were drawn.

        Raises:
            ValueError: a stage that may have moved pixels in an unknown way.
        """
        return _matrix(self._program, self._record)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        return iter(self.operations)


class FusedTransform:
    """A compiled program of transforms; made by :func:`fuse`.

    Every number it draws is a function of the seed, the epoch, and the sample's position in the epoch: not of the
    batch's size or order, the device, or any global generator. Calls with the same arguments give the same result, so
    pass another epoch, or other positions, for each batch; :class:`torchaug_gen.AugmentedLoader` does.
    """

    def __init__(self, program: Program, options: TargetOptions) -> None:
        self._program = program
        self._target_options = options
        self._last = threading.local()

    @property
    def _fused_steps(self) -> list[Any]:
        """The steps, for a program that this transform becomes part of."""
        return self._program.steps

    @property
    def _settings(self) -> dict[str, Any]:
        """How fused stages compute, for a program that this transform becomes."""
        return self._program.settings

    def __repr__(self) -> str:
        return f"FusedTransform(\n{self.plan()}\n)"

    def plan(self) -> Plan:
        """Return the stages of the program, and why a transform could not be fused; prints as text."""
        return Plan.of(self._program)

    def __call__(
        self,
        images: Images,
        *targets: Any,
        labels: Tensor | None = None,
        masks: Any = None,
        boxes: Any = None,
        keypoints: Any = None,
        seed: int = 0,
        epoch: int = 0,
        positions: Sequence[int] | Tensor | None = None,
        parameters: Parameters | None = None,
    ) -> Any:
        """Transform a batch.

        Args:
            images: ``(N, C, H, W)``, one image ``(C, H, W)``, or a list of images whose sizes may differ; uint8, or
                floating in [0, 1].
            targets: what moves with the images, as torchvision's ``Mask``, ``BoundingBoxes`` or ``KeyPoints``, or lists
                of them or of dicts that hold them.
            labels: ``(N,)`` int64 or ``(N, K)`` floating, where the program mixes images.
            masks: ``(N, H, W)`` or ``(N, C, H, W)``, or a list; they keep their dtype.
            boxes: ``(N, M, 4)``, or a list of ``(M, 4)``. Boxes that are gone become zeros, so that labels you keep
                elsewhere still fit; :attr:`kept` says which remain. To have them removed with their labels, pass
                dicts as ``targets``, such as ``{"boxes": (M, 4), "labels": (M,)}``.
            keypoints: ``(N, M, 2)`` or ``(N, M, 3)``, or a list of ``(M, 2)`` or ``(M, 3)``.
            seed: 0 ≤ seed < 2⁶⁴.
            epoch: 0 ≤ epoch < 2³².
            positions: ``(N,)`` the samples' positions in the epoch; 0, 1, … by default.
            parameters: what :meth:`parameters_for` returned, instead of drawing; seed, epoch and positions are its own.

        Returns:
            The images ``(N, C, h, w)``; with targets a tuple of images, ``*targets``, labels, masks, boxes and
            keypoints, as far as they were passed. A list of images becomes one tensor where the program fixes their
            size, by a crop or resize to (height, width); it stays a list where the program leaves sizes alone, as
            flips and rotations do, also where all images happen to have one size.

        Raises:
            ValueError: images that would come out in sizes that the program makes differ, as ``LongestMaxSize`` does;
                labels or targets that do not fit.
            TypeError: arguments of other types.
        """
        single = isinstance(images, Tensor) and images.ndim == 3
        if isinstance(images, Tensor) and single:
            if any(value is not None for value in (*targets, labels, masks, boxes, keypoints)):
                raise ValueError("targets and labels need a batch of images (N, C, H, W), got one image (C, H, W)")
            images = images[None]
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"labels must be {len(images)}, one for each image, got {len(labels)}")
        part, key = self._part(images, seed, epoch, positions, parameters)
        named = {"masks": masks, "boxes": boxes, "keypoints": keypoints}
        columns: dict[Any, Target] = {number: Target(_role(value), value) for number, value in enumerate(targets)}
        columns |= {role: Target(role, value) for role, value in named.items() if value is not None}
        given = None if parameters is None else parameters._record.parameters
        result, record = self._program([part], labels, key, targets=columns, given=given, geometry=True)
        self._last.record = record
        if single:
            return result.images[0]
        rest = [result.targets[number] for number in range(len(targets))]
        rest += [] if labels is None else [result.labels]
        rest += [result.targets[role] for role in named if role in result.targets]
        return (result.images, *rest) if rest else result.images

    def parameters_for(
        self,
        images: Images,
        *,
        seed: int = 0,
        epoch: int = 0,
        positions: Sequence[int] | Tensor | None = None,
    ) -> Parameters:
        """Return what would be drawn for a batch; see :meth:`__call__` for the arguments."""
        part, key = self._part(images, seed, epoch, positions, None)
        labels = torch.zeros(len(images), dtype=torch.int64) if self._program.mixes_labels else None
        with torch.no_grad():
            _, record = self._program([part], labels, key, geometry=True)
        operations = []
        for stage, drawn in zip(self._program.stages, record.parameters, strict=True):
            if isinstance(stage, FusedStage) and drawn is not None:
                operations += list(_named(stage, drawn[0], channels_of(images)))
        return Parameters(key.seed, key.epoch, part.positions, operations, self._program, record)

    @property
    def matrix(self) -> Tensor:
        """``(N, 3, 3)`` float64: from pixels of the input to pixels of the output, of this thread's last call.

        The centre of pixel (0, 0) is the origin.

        Raises:
            ValueError: no call yet, or a stage that may have moved pixels in an unknown way.
        """
        return _matrix(self._program, self._recorded("matrix"))

    @property
    def kept(self) -> dict[str | int, Any]:
        """Which boxes of this thread's last call remain: ``(N, M)`` bool, or a list of ``(M,)`` bool.

        By the name of the argument, ``"boxes"``, or the number of the positional target. Dicts of boxes are not listed:
        they have lost their rows. Neither are boxes that the program does not move.

        Raises:
            ValueError: no call yet.
        """
        return dict(self._recorded("kept").kept)

    @property
    def inverse(self) -> Tensor:
        """``(N, 3, 3)`` float64: from pixels of the output to pixels of the input; see :attr:`matrix`."""
        inverse: Tensor = torch.linalg.inv(self.matrix)
        return inverse

    def _recorded(self, what: str) -> Record:
        record: Record | None = getattr(self._last, "record", None)
        if record is None:
            raise ValueError(f"{what} is that of the last call, and there was none in this thread")
        return record

    def _part(
        self,
        images: Images,
        seed: int,
        epoch: int,
        positions: Sequence[int] | Tensor | None,
        parameters: Parameters | None,
    ) -> tuple[Rows, Key]:
        """Return a batch as rows, and what its numbers are keyed by."""
        _check_images(images)
        n = len(images)
        if parameters is not None:
            if not isinstance(parameters, Parameters):
                raise TypeError(f"parameters must be what parameters_for returned, got {type(parameters).__name__}")
            where, seed, epoch = parameters.positions, parameters.seed, parameters.epoch
        elif positions is None:
            where = torch.arange(n)
        else:
            where = _as_positions(positions)
        if len(where) != n:
            raise ValueError(f"positions must be {n}, one for each image, got {len(where)}")
        if n and int(where.min()) < 0:
            raise ValueError(f"positions must be at least 0, got {int(where.min())}")
        key = Key(check_seed(seed), check_epoch(epoch), int(where[0]) if n else 0)
        return Rows(images, torch.arange(n), where), key


def _as_positions(positions: Any) -> Tensor:
    where: Tensor = torch.as_tensor(positions).cpu()
    is_integer = not (where.is_floating_point() or where.is_complex() or where.dtype is torch.bool)
    # An empty list becomes a floating tensor.
    if where.ndim != 1 or not (is_integer or len(where) == 0):
        raise TypeError(f"positions must be (N,) integers, got {tuple(where.shape)} {where.dtype}")
    return where.to(torch.int64)


def _check_target_options(
    box_format: str, min_area: float, min_visibility: float, keypoint_origin: str, keypoints_outside: str
) -> None:
    if box_format not in FORMATS:
        raise ValueError(f"box_format must be one of {', '.join(FORMATS)}, got {box_format!r}")
    if not min_area >= 0:
        raise ValueError(f"min_area must be at least 0, got {min_area}")
    if not 0 <= min_visibility <= 1:
        raise ValueError(f"min_visibility must be in [0, 1], got {min_visibility}")
    if keypoint_origin not in ORIGINS:
        raise ValueError(f"keypoint_origin must be one of {', '.join(ORIGINS)}, got {keypoint_origin!r}")
    if keypoints_outside not in OUTSIDE:
        raise ValueError(f"keypoints_outside must be one of {', '.join(OUTSIDE)}, got {keypoints_outside!r}")


def _check_images(images: Any) -> None:
    listed = [images] if isinstance(images, Tensor) else images
    if isinstance(listed, list | tuple) and all(isinstance(image, Tensor) for image in listed):
        wanted = 4 if isinstance(images, Tensor) else 3
        right = all(i.ndim == wanted and (i.dtype is torch.uint8 or i.is_floating_point()) for i in listed)
        if right and (isinstance(images, Tensor) or images):
            return
        shapes = ", ".join(f"{tuple(image.shape)} {image.dtype}" for image in listed[:3])
        got = shapes or "an empty list"
    else:
        got = type(images).__name__
    raise TypeError(f"images must be (N, C, H, W), or a list of (C, H, W), uint8 or floating, got {got}")


def _role(value: Any) -> str:
    """Return the role of a target by its class."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    if isinstance(first, Mapping):
        return "boxes"
    name = kind(first)
    if name not in _ROLES:
        raise TypeError(
            f"a target must be torchvision's Mask, BoundingBoxes or KeyPoints, or a list of them or of dicts, got "
            f"{type(first).__name__}: name plain tensors with masks=, boxes= or keypoints="
        )
    return _ROLES[name]


def _named(stage: FusedStage, drawn: npt.NDArray[np.float64], channels: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each operation's name, and its columns by name."""
    column = 0
    for operation in stage.operations:
        names = list(parameter_names(operation.kind, channels))
        yield operation.name, {name: torch.from_numpy(drawn[:, column + i]) for i, name in enumerate(names)}
        column += len(names)


def _matrix(program: Program, record: Record) -> Tensor:
    """Return the map from input to output pixels of a whole program."""
    for stage in program.stages:
        if not getattr(stage, "keeps_places", True):
            name = getattr(stage, "name", type(stage).__name__)
            raise ValueError(f"{name} may have moved pixels in a way that no matrix tells")
    matrices = [np.linalg.inv(warp.composed) for warp in record.warps]
    if not matrices:
        raise ValueError("the program has no fused stage, so it has no matrix")
    total = matrices[0]
    for matrix in matrices[1:]:
        total = matrix @ total
    return torch.from_numpy(total / total[:, 2:, 2:])
