"""Program: a list of transforms as stages that run one after the other on the real and synthetic rows of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchaug_gen import rng
from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.fused import FusedStage, Parameters
from torchaug_gen.augment.mix import Mix
from torchaug_gen.augment.mixture import MixtureStage
from torchaug_gen.augment.opaque import OpaqueStage
from torchaug_gen.augment.operation import Filter, Kind, Opaque, Operation, Size
from torchaug_gen.augment.reading import Step, read
from torchaug_gen.augment.rows import Key, Rows, join, only, sizes_text
from torchaug_gen.augment.targets.checking import check_targets
from torchaug_gen.augment.targets.moving import Target, TargetOptions, settle, stacked, still, warp_of
from torchaug_gen.augment.targets.warp import Warp
from torchaug_gen.batch import Images
from torchaug_gen.pixels import convert

Stage = FusedStage | MixtureStage | Mix | OpaqueStage


_DEFAULTS: dict[str, Any] = {"backend": "auto", "interpolation": None, "antialias": None}


class Result(NamedTuple):
    """What a program makes of a batch."""

    images: Images
    labels: Tensor | None
    targets: dict[Any, Any]


class Record(NamedTuple):
    """What a program did.

    Attributes:
        parameters: of each stage, ``None`` where it has none.
        warps: each fused stage's geometry, where it was asked for.
        kept: which boxes remain, for columns of nothing but boxes.
    """

    parameters: list[list[Parameters] | None]
    warps: list[Warp]
    kept: dict[Any, Any]


class Program:
    """Transforms compiled to stages.

    Args:
        transform: what :func:`torchaug_gen.augment.reading.read` reads.
        dtype: what images will be delivered in; ``None`` keeps what comes.
        memory_format: of the images.
        backend: what computes fused stages.
        interpolation: how fused stages resample, instead of as each module does.
        antialias: whether fused stages antialias, instead of as each module does.
        targets: how targets are moved.

    Raises:
        TypeError: something that is neither callable nor a list of callables.
        ValueError: normalised images that are to be delivered as integers; a fused transform among others that has
            options which the others don't.
    """

    def __init__(
        self,
        transform: Any,
        *,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format = torch.contiguous_format,
        backend: str = "auto",
        interpolation: Filter | None = None,
        antialias: bool | None = None,
        targets: TargetOptions | None = None,
    ) -> None:
        self.steps: list[Step] = read(transform)
        self.settings = {"backend": backend, "interpolation": interpolation, "antialias": antialias}
        for name, value in getattr(transform, "_settings", {}).items():
            self.settings[name] = value if self.settings[name] == _DEFAULTS[name] else self.settings[name]
        self.stages = list(_stages(self.steps, self.settings))
        self.dtype, self._memory_format = dtype, memory_format
        self._targets = targets or getattr(transform, "_target_options", None) or TargetOptions()
        _check_options(transform, self.settings, self._targets)
        self._needs_float = any(isinstance(stage, Mix) or getattr(stage, "needs_float", False) for stage in self.stages)
        if dtype is torch.uint8 and (name := self._leaves_unit_range()):
            raise ValueError(
                f"{name} leaves values outside [0, 1], which dtype=torch.uint8 cannot hold: choose a floating dtype"
            )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become probabilities ``(N, K)`` in every batch."""
        return any(isinstance(stage, Mix) for stage in self.stages)

    @property
    def fixes_size(self) -> bool:
        """Whether images of all sizes come out in one, as one tensor, or not at all."""
        return any(isinstance(stage, Mix) or _fixes_size(stage) for stage in self.stages)

    @property
    def num_classes(self) -> int | None:
        """The number of classes that a mixing stage was told, or ``None``."""
        told = (stage.num_classes for stage in self.stages if isinstance(stage, Mix))
        return next((number for number in told if number is not None), None)

    def __call__(
        self,
        parts: Sequence[Rows],
        labels: Tensor | None,
        key: Key,
        *,
        targets: Mapping[Any, Target] | None = None,
        given: Sequence[list[Parameters] | None] | None = None,
        geometry: bool = False,
    ) -> tuple[Result, Record]:
        """Run the stages.

        Rows are joined into one tensor as soon as their sizes agree: at once, or after the stage that makes them agree.

        Args:
            parts: the real rows, then the synthetic ones, where there are any.
            labels: the labels of all rows, ``(N,)`` or ``(N, K)``; ``None`` where the batch has none.
            key: what random numbers are keyed by.
            targets: columns of all rows, by any name.
            given: parameters of each stage, instead of drawing them.
            geometry: note what fused stages have done also where no targets have to follow.

        Returns:
            Images ``(N, C, H, W)``, or a list for a list where no stage fixes the size; labels, and targets by their
            names; and what was done.

        Raises:
            ValueError: sizes that still differ at the end, between real and synthetic rows or within a tensor; labels
                that cannot be mixed, targets that a stage cannot move or that do not have their images' size.
        """
        moved = dict(targets or {})
        record = Record([], [], {})
        if any(stage.moves if isinstance(stage, FusedStage) else _touches(stage, moved) for stage in self.stages):
            check_targets(parts, moved)
        # What fused stages have done to the images, and nobody to the targets yet: moved through all of them at once,
        # masks stay sharp, and boxes are measured where they end.
        pending: Warp | None = None
        given_dtype, listed = _dtype_of(parts[0].images), not isinstance(parts[0].images, Tensor)
        dtypes = self._dtypes(given_dtype)
        if not isinstance(self.stages[0] if self.stages else None, FusedStage):
            parts = join([_converted(part, dtypes[0]) for part in parts])
        for index, stage in enumerate(self.stages):
            drawn: list[Parameters] | None = None
            if isinstance(stage, FusedStage):
                last = index == len(self.stages) - 1
                memory_format = self._memory_format if last else torch.contiguous_format
                before = [part for part in parts if len(part.rows)] or list(parts[:1])
                if given is None and stage.prefers_one(before):
                    before = join(before)
                parts, tables, drawn = stage(
                    before,
                    key,
                    dtype=dtypes[index + 1],
                    memory_format=memory_format,
                    given=None if given is None else given[index],
                )
                if geometry or moved:
                    record.warps.append(warp_of(before, tables, parts))
                    if stage.moves:
                        pending = record.warps[-1] if pending is None else pending.then(record.warps[-1])
            elif isinstance(stage, Mix):
                own_key = key._replace(seed=rng.derive_seed(key.seed, f"mix.{index}"))
                # What a fused stage has written is nobody else's.
                ours = index > 0 and isinstance(self.stages[index - 1], FusedStage)
                moved, pending = self._settled(moved, pending, record), None
                parts, labels, moved = self._mix(stage, parts, labels, own_key, moved, inplace=ours)
            elif isinstance(stage, OpaqueStage) and stage.touches(moved):
                moved = self._settled(moved, pending, record)
                parts, moved = stage.run_beside(parts, moved, key, index, self._targets)
                parts = join(parts)
                pending = still(parts)
            else:
                if moved and not stage.keeps_places:
                    raise ValueError(
                        f"{stage.name} may move pixels, but would leave {_roles(moved)} where they are: {stage.reason}"
                    )
                parts = join([stage.run(part, key, index, number) for number, part in enumerate(parts)])
            record.parameters.append(drawn)
        moved = self._settled(moved, pending, record)
        moved = {name: Target(t.role, stacked(t.value, (targets or {})[name].value)) for name, t in moved.items()}
        images = self._delivered(self._shaped(only(parts), listed), given_dtype)
        return Result(images, labels, {name: target.value for name, target in moved.items()}), record

    def _shaped(self, images: Images, listed: bool) -> Images:
        """Return a list for a list that no stage brings to one size, also where its images agree by chance."""
        if listed and isinstance(images, Tensor) and not self.fixes_size:
            return list(images)
        if not listed and not isinstance(images, Tensor):
            opaque = [stage.name for stage in self.stages if not isinstance(stage, FusedStage | Mix)]
            raise ValueError(
                f"{' or '.join(opaque)} leaves images of different sizes, {sizes_text(images)}, which make no batch: "
                "add a crop or resize to a fixed (height, width) behind it, or pass a list of images"
            )
        return images

    def _settled(self, targets: dict[Any, Target], pending: Warp | None, record: Record) -> dict[Any, Target]:
        """Return targets where the images have gone, and note which boxes remain."""
        if pending is None:
            return targets
        settled = {}
        for name, target in targets.items():
            value, kept = settle(target, pending, self._targets)
            settled[name] = Target(target.role, value)
            if kept is not None:
                record.kept[name] = kept
        return settled

    def _delivered(self, images: Images, given: torch.dtype) -> Images:
        """Return images in the dtype and memory format asked for, where the last stage could not see to it."""
        dtype = given if self.dtype is None and given.is_floating_point else self.dtype
        if isinstance(images, Tensor):
            return convert(images, dtype).contiguous(memory_format=self._memory_format)
        return [convert(image, dtype) for image in images]

    def _dtypes(self, given: torch.dtype) -> list[torch.dtype]:
        """Return the dtype before the first stage, and after each.

        The last stage delivers, where it can; on the way images are at least float32 where anything needs floating
        values or the result is floating.
        """
        delivered = given if self.dtype is None else self.dtype
        if self.dtype is None and not given.is_floating_point and (name := self._leaves_unit_range()):
            raise ValueError(
                f"{name} leaves values outside [0, 1], which {given} cannot hold: ask for a floating dtype, as in "
                "dtype=torch.float32"
            )
        working = given
        if self._needs_float or delivered.is_floating_point:
            working = torch.promote_types(given, torch.float32) if given.is_floating_point else torch.float32
        dtypes = [working] * (len(self.stages) + 1)
        if self.stages and isinstance(self.stages[-1], FusedStage):
            dtypes[-1] = delivered if self.dtype is not None or given.is_floating_point else dtypes[-1]
        return dtypes

    def _leaves_unit_range(self) -> str | None:
        """Return the stage that may leave [0, 1], as Normalize does, or ``None``."""
        fused = (stage for stage in self.stages if isinstance(stage, FusedStage))
        return next((stage.normalizes for stage in fused if stage.normalizes), None)

    @staticmethod
    def _mix(
        stage: Mix,
        parts: Sequence[Rows],
        labels: Tensor | None,
        key: Key,
        targets: dict[Any, Target],
        *,
        inplace: bool,
    ) -> tuple[list[Rows], Tensor | None, dict[Any, Target]]:
        images = only(parts)
        masks = [
            name for name, target in targets.items() if target.role == "masks" and isinstance(target.value, Tensor)
        ]
        if labels is None and not masks:
            raise ValueError(
                f"{stage!r} blends labels, but the batch has none: name them with fields=, or pass labels="
            )
        if not isinstance(images, Tensor):
            raise ValueError(f"{stage!r} needs images of one size, got sizes {sizes_text(images)}: resize before it")
        if len(targets) > len(masks) or len(masks) > 1:
            raise ValueError(
                f"{stage!r} cannot mix {_roles(targets)}: leave it out, or deny the fields, as in "
                'fields={"boxes": None}'
            )
        options = key._asdict()
        if masks:
            mixed, labels, pasted = stage(images, labels, masks=targets[masks[0]].value, inplace=inplace, **options)
            targets = {masks[0]: Target("masks", pasted)}
        elif labels is not None:
            mixed, labels = stage(images, labels, inplace=inplace, **options)
        return [parts[0]._replace(images=mixed)], labels, targets


def _check_options(transform: Any, settings: Mapping[str, Any], targets: TargetOptions) -> None:
    """Raise where a fused transform, as a part, would lose options, which belong to whole programs."""
    for part in transform if isinstance(transform, list | tuple) else [transform]:
        asked, defaults = getattr(part, "_settings", None), TargetOptions()
        if asked is None:
            continue
        lost = [name for name, value in asked.items() if value not in (_DEFAULTS[name], settings[name])]
        for name, default in asdict(defaults).items():
            if getattr(part._target_options, name) not in (default, getattr(targets, name)):
                lost.append(name)
        if lost:
            raise ValueError(
                f"a fused transform inside of another would lose its options {', '.join(lost)}: fuse all of it at "
                "once, as in fuse([...], interpolation=...)"
            )


def _stages(steps: Sequence[Step], settings: Mapping[str, Any]) -> "list[Stage]":
    """Return steps as stages: operations next to each other are one."""
    stages: list[Stage] = []
    first = 0
    for is_operation, group in groupby(steps, lambda step: isinstance(step, Operation)):
        members = list(group)
        if is_operation:
            operations = [step for step in members if isinstance(step, Operation)]
            stages.append(FusedStage(operations, first=first, **settings))
            first += len(operations)
            continue
        for step in members:
            if isinstance(step, AugMix):
                stages.append(MixtureStage(step, first=first, **settings))
                first += len(step.operations)
            elif isinstance(step, Opaque):
                stages.append(OpaqueStage(step.module, reason=step.reason))
            elif isinstance(step, Mix):
                stages.append(step)
    return stages


def _touches(stage: Stage, targets: Mapping[Any, Target]) -> bool:
    return isinstance(stage, OpaqueStage) and stage.touches(targets)


def _fixes_size(stage: Stage) -> bool:
    if not isinstance(stage, FusedStage):
        return False
    resizing = {Kind.CROP, Kind.RESIZE}
    return any(
        operation.kind is Kind.RESIZED_CROP
        or (operation.kind in resizing and Size(int(operation.constants[0])) is Size.FIXED)
        for operation in stage.operations
    )


def _converted(part: Rows, dtype: torch.dtype) -> Rows:
    images = part.images
    if isinstance(images, Tensor):
        return part._replace(images=convert(images, dtype))
    return part._replace(images=[convert(image, dtype) for image in images])


def _dtype_of(images: Images) -> torch.dtype:
    return images.dtype if isinstance(images, Tensor) else images[0].dtype


def _roles(targets: Mapping[Any, Target]) -> str:
    return " and ".join(sorted({target.role for target in targets.values()}))
