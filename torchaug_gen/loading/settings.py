"""Settings: the checked arguments of an AugmentedLoader."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchaug_gen.augment.program import Program
from torchaug_gen.batch import check_roles
from torchaug_gen.mixing import MIXINGS, ClassSchedule, Schedule, check_policy
from torchaug_gen.pixels import check_dtype
from torchaug_gen.rng import check_seed


@dataclass(frozen=True)
class Settings:
    """What an :class:`AugmentedLoader` was asked to do, checked; see there for the meaning of each."""

    program: Program
    synthesizer: Any
    schedule: Schedule | ClassSchedule
    mixing: str
    labels: Any
    fields: Mapping[str, Any] | None
    tag: str | None
    device: torch.device | None
    dtype: torch.dtype | None
    memory_format: torch.memory_format
    prefetch: int
    seed: int
    allow_eval: bool

    @property
    def mixes(self) -> bool:
        """Whether a pass may deliver synthetic items."""
        return self.synthesizer is not None and self.schedule.delivers

    @property
    def num_classes(self) -> int | None:
        """The number of classes, where the synthesizer or a mixing stage knows it."""
        known = getattr(self.synthesizer, "num_classes", None)
        return self.program.num_classes if known is None else known

    @property
    def off(self) -> bool:
        """Whether the loader delivers the inner loader's very batches."""
        return not self.program.stages and self.synthesizer is None and self.tag is None and self.device is None


def check_settings(
    transform: Any,
    *,
    synthesizer: Any,
    synthetic_fraction: Any,
    mixing: str,
    labels: Any,
    fields: Mapping[str, Any] | None,
    tag: str | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    memory_format: torch.memory_format,
    prefetch: int,
    seed: int | None,
    allow_eval: bool,
) -> Settings:
    """Return the arguments of an :class:`AugmentedLoader` as settings, or raise what is wrong with one of them."""
    schedule = _schedule(synthetic_fraction, synthesizer)
    if synthesizer is None and schedule.delivers:
        raise ValueError(f"synthetic_fraction={synthetic_fraction} needs a synthesizer, got None")
    if synthesizer is not None and not callable(getattr(synthesizer, "sample", None)):
        raise TypeError(
            f"synthesizer must have .sample(...), got {type(synthesizer).__name__}: wrap a network with "
            "Synthesizer.from_module"
        )
    if mixing not in MIXINGS:
        raise ValueError(f"mixing must be one of {', '.join(MIXINGS)}, got {mixing!r}")
    if fields is not None and not isinstance(fields, Mapping):
        raise TypeError(f'fields must map roles to keys, as in {{"images": 0, "labels": 1}}, got {fields!r}')
    _check_labels_asked(labels, synthesizer, mixing, schedule)
    if fields is not None:
        check_roles(fields)
    if tag is not None and not (isinstance(tag, str) and tag):
        raise TypeError(f"tag must be the name of a field, or None, got {tag!r}")
    if isinstance(prefetch, bool) or not isinstance(prefetch, int):
        raise TypeError(f"prefetch must be an int, got {prefetch!r}")
    if prefetch < 0:
        raise ValueError(f"prefetch must be at least 0, got {prefetch}")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(f"memory_format must be torch.contiguous_format or torch.channels_last, got {memory_format}")
    settings = Settings(
        program=Program(transform, dtype=check_dtype(dtype), memory_format=memory_format),
        synthesizer=synthesizer,
        schedule=schedule,
        mixing=mixing,
        labels=check_policy(labels, getattr(synthesizer, "num_classes", None)),
        fields=fields,
        tag=tag,
        device=None if device is None else torch.device(device),
        dtype=dtype,
        memory_format=memory_format,
        prefetch=prefetch,
        seed=0 if seed is None else check_seed(seed),
        allow_eval=allow_eval,
    )
    _check_classes(settings)
    return settings


def _schedule(synthetic_fraction: Any, synthesizer: Any) -> Schedule | ClassSchedule:
    if not ClassSchedule.describes(synthetic_fraction):
        return Schedule.of(synthetic_fraction)
    if synthesizer is None:
        raise ValueError("synthetic_fraction per class needs a synthesizer, got None")
    num_classes = getattr(synthesizer, "num_classes", None)
    if num_classes is None:
        raise ValueError(
            "synthetic_fraction is one per class, but the synthesizer has no classes: give it num_classes, or one "
            "fraction for all items"
        )
    schedule = ClassSchedule.of(synthetic_fraction, num_classes)
    return schedule if schedule.delivers else Schedule.of(0)


def _check_labels_asked(labels: Any, synthesizer: Any, mixing: str, schedule: Schedule | ClassSchedule) -> None:
    """Raise where the choice of classes would be ignored."""
    if isinstance(labels, str) and labels == "match":
        return
    if isinstance(schedule, ClassSchedule):
        raise ValueError(
            f"synthetic_fraction per class decides the classes, so labels must be left out, got {labels!r}; give one "
            "fraction for all items to choose classes by labels"
        )
    if mixing == "replace":
        raise ValueError(
            f'mixing="replace" keeps the labels of the replaced items, so labels must be "match", got {labels!r}'
        )
    if synthesizer is not None and getattr(synthesizer, "num_classes", None) is None:
        raise ValueError(f"the synthesizer has no classes to choose from, so labels must be left out, got {labels!r}")


def _check_classes(settings: Settings) -> None:
    told, known = settings.program.num_classes, getattr(settings.synthesizer, "num_classes", None)
    if told is not None and known is not None and told != known:
        raise ValueError(f"MixUp(num_classes={told}) and the synthesizer's {known} classes must be the same")
