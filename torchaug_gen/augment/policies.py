"""Policies: RandAugment, TrivialAugment, AutoAugment and AugMix, the operations chosen anew for each sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.choices import below, choose
from torchaug_gen.augment.operation import (
    CONSTANTS,
    Filter,
    Gate,
    Kind,
    Opaque,
    Operation,
    Padding,
    constant_range,
)
from torchaug_gen.augment.torchvision_settings import (
    Number,
    UnreadableError,
    constants,
    fill,
    library_name,
    warp_filter,
)

Policy = list[Operation] | AugMix | Opaque

# The sign of a magnitude is a fair coin's; that of a factor's distance from 1 likewise.
_SIGN, _MIRROR = 1, 2


class _Magnitudes(NamedTuple):
    """Which magnitudes are drawn: equally spaced ones, as fractions of the way to the strongest."""

    first: float
    last: float
    steps: int = 1


@dataclass(frozen=True)
class _Space:
    """The strongest magnitudes of a policy, where the weakest ones do nothing.

    Args:
        shear: the tangent of an angle.
        translate: a fraction of the image, or pixels where ``translate_pixels`` is 1.
        translate_pixels: see ``translate``.
        rotate: degrees.
        factor: the distance of a factor from 1.
        bits: how many are left of a posterized image at the weakest and strongest.
        names: the operations that are chosen from, each with the same chance.
    """

    shear: float
    translate: float
    translate_pixels: int
    rotate: float
    factor: float
    bits: tuple[int, int]
    names: tuple[str, ...] = ()


_GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")
_LEVELS = ("Posterize", "Solarize", "AutoContrast", "Equalize")
_ALL = ("Identity", *_GEOMETRY, *_FACTORS, *_LEVELS)

_AUTO = _Space(shear=0.3, translate=150 / 331, translate_pixels=0, rotate=30, factor=0.9, bits=(8, 4))
_RAND = replace(_AUTO, names=_ALL)
_TRIVIAL = _Space(shear=0.99, translate=32, translate_pixels=1, rotate=135, factor=0.99, bits=(8, 2), names=_ALL)
_MIX = _Space(
    shear=0.3,
    translate=1 / 3,
    translate_pixels=0,
    rotate=30,
    factor=0.9,
    bits=(4, 0),
    names=(*_GEOMETRY, *_LEVELS, *_FACTORS),
)
# Of which AugMix takes so many steps.
_MIX_STEPS = 10
_AUTO_STEPS = 10


def read_torchvision(module: Any, *, path: str = "", floating: bool = False) -> Policy | None:
    """Read torchvision's RandAugment, TrivialAugmentWide, AutoAugment or AugMix.

    Magnitudes and chances are torchvision's; what torchvision draws once per call is drawn for each sample.
    Translations lose their decimals as in torchvision, but are computed in float64, where 32 · 15 / 30 is 16 and not
    just below.

    Args:
        module: the transform, of v2 or v1.
        path: begins the names of streams and choices; unique in a program.
        floating: whether images are known to be floating, for fill values.

    Returns:
        Operations, :class:`AugMix`, :class:`Opaque` with the reason, or ``None`` for anything else.
    """
    reader = _TORCHVISION.get(library_name(module) or "")
    if reader is None:
        return None
    try:
        return reader(module, _Builder(module, floating), path)
    except UnreadableError as error:
        return Opaque(module, str(error))


class _Builder:
    """Makes the operations of one of torchvision's policies.

    Args:
        module: whose interpolation and fill value they take.
        floating: whether images are known to be floating.

    Raises:
        UnreadableError: another interpolation than nearest and bilinear.
    """

    def __init__(self, module: Any, floating: bool) -> None:
        self.name = type(module).__name__
        self._filter: Filter = warp_filter(module)
        self._fill = fill(module, floating=floating)

    def operation(self, name: str, space: _Space, magnitudes: _Magnitudes) -> list[Operation]:
        """Return the operation that torchvision calls ``name``, or nothing for ``Identity``."""

        def drawn(weakest: float, strongest: float, signed: int = 0) -> tuple[float, float, float, float]:
            low, high = (weakest + (strongest - weakest) * share for share in magnitudes[:2])
            bins = magnitudes.steps if magnitudes.steps > 1 else 0
            return low, high, float(bins), float(signed)

        if name == "Identity":
            return []
        if name in _GEOMETRY:
            return [self._affine(name, space, drawn)]
        kind = Kind[_KINDS[name]]
        values: dict[str, Any] = {}
        if name in _FACTORS:
            values["factor"] = drawn(1, 1 + space.factor, _MIRROR)
        if name == "Posterize":
            values["bits"] = drawn(*space.bits)
        if name == "Solarize":
            # A little lower, so that no rounding of 1/255 can part a level from a threshold equal to it.
            values |= {"threshold": drawn(1 - 1e-6, -1e-6), "addition": constant_range(0, 0)}
        flags = {"style": 1, "clip": 1, "maximum": 1}
        values |= {flag: value for flag, value in flags.items() if flag in CONSTANTS[kind]}
        return [Operation(kind, f"{self.name}.{name}", constants(kind, **values))]

    def _affine(
        self, name: str, space: _Space, drawn: Callable[[float, float, int], tuple[float, float, float, float]]
    ) -> Operation:
        ranges = ("angle", "translate_x", "translate_y", "shear_x", "shear_y")
        values: dict[str, Any] = dict.fromkeys(ranges, constant_range(0, 0))
        if name == "Rotate":
            values["angle"] = drawn(0, space.rotate, _SIGN)
        else:
            strongest = space.shear if name.startswith("Shear") else space.translate
            values[f"{name[:-1].lower()}_{name[-1].lower()}"] = drawn(0, strongest, _SIGN)
        values |= {
            "style": 2,
            "angle_sign": 1,
            "translate_pixels": space.translate_pixels,
            "translate_whole": 2,
            "scale_x": constant_range(1, 1),
            "scale_y": constant_range(1, 1),
            "scale_joint": 1,
            # Shears leave the upper left corner where it is, everything else the centre.
            "centre_given": int(name.startswith("Shear")),
            "centre_x": 0,
            "centre_y": 0,
        }
        return Operation(
            Kind.AFFINE,
            f"{self.name}.{name}",
            constants(Kind.AFFINE, **values),
            filter=self._filter,
            padding=Padding.FILL,
            fill=self._fill,
        )

    def choice(self, space: _Space, magnitudes: _Magnitudes, stream: str) -> list[Operation]:
        """Return the operations of a space, of which each sample goes through one."""
        branches = [self.operation(name, space, magnitudes) for name in space.names]
        return choose(branches, stream=stream)


_KINDS = {
    "Brightness": "BRIGHTNESS",
    "Color": "SATURATION",
    "Contrast": "CONTRAST",
    "Sharpness": "SHARPNESS",
    "Posterize": "POSTERIZE",
    "Solarize": "SOLARIZE",
    "AutoContrast": "AUTOCONTRAST",
    "Equalize": "EQUALIZE",
    "Invert": "INVERT",
}


def _rand_augment(module: Any, builder: _Builder, path: str) -> list[Operation]:
    steps = module.num_magnitude_bins
    if not -steps <= module.magnitude < steps:
        raise UnreadableError(f"magnitude {module.magnitude} is not below num_magnitude_bins {steps}")
    share = (module.magnitude % steps) / max(steps - 1, 1)
    slots = [builder.choice(_RAND, _Magnitudes(share, share), below(path, f"slot{k}")) for k in range(module.num_ops)]
    return [operation for slot in slots for operation in slot]


def _trivial_augment(module: Any, builder: _Builder, path: str) -> list[Operation]:
    steps = module.num_magnitude_bins
    return builder.choice(_TRIVIAL, _Magnitudes(0.0, float(steps > 1), steps), below(path, "slot0"))


def _auto_augment(module: Any, builder: _Builder, path: str) -> list[Operation]:
    branches = []
    # v2 keeps its sub-policies under another name than v1.
    for sub_policy in getattr(module, "_policies", None) or module.policies:
        branch = []
        for name, probability, step in sub_policy:
            share = (step or 0) / (_AUTO_STEPS - 1)
            operations = builder.operation(name, _AUTO, _Magnitudes(share, share))
            branch += [replace(operation, probability=float(probability)) for operation in operations]
        branches.append(branch)
    return choose(branches, stream=below(path, "policy"))


def _aug_mix(module: Any, builder: _Builder, path: str) -> AugMix:
    names = _MIX.names if module.all_ops else tuple(name for name in _MIX.names if name not in _FACTORS)
    space = replace(_MIX, names=names)
    magnitudes = _Magnitudes(0.0, (module.severity - 1) / (_MIX_STEPS - 1), module.severity)
    depth = module.chain_depth if module.chain_depth > 0 else 3
    operations: list[Operation] = []
    for k in range(depth):
        slot = builder.choice(space, magnitudes, below(path, f"slot{k}"))
        if module.chain_depth <= 0 and k:
            # One, two or three deep, each with the same chance.
            slot = [operation.behind(Gate(below(path, "depth"), k / depth, 1.0)) for operation in slot]
        operations += slot
    return AugMix("AugMix", tuple(operations), int(module.mixture_width), float(module.alpha))


_TORCHVISION: dict[str, Callable[[Any, _Builder, str], list[Operation] | AugMix]] = {
    "RandAugment": _rand_augment,
    "TrivialAugmentWide": _trivial_augment,
    "AutoAugment": _auto_augment,
    "AugMix": _aug_mix,
}


# Kornia


def read_kornia(module: Any, *, path: str = "") -> Policy | None:
    """Read Kornia's RandAugment, TrivialAugment or AutoAugment.

    Magnitudes and chances are Kornia's, which chooses operations once per batch; here each sample has its own.

    Args:
        module: a policy of ``kornia.augmentation.auto``.
        path: begins the names of streams and choices; unique in a program.

    Returns:
        Operations, :class:`Opaque` with the reason, or ``None`` for anything else.
    """
    cls = type(module)
    reader = _KORNIA.get(cls.__name__) if cls.__module__.startswith("kornia.augmentation.auto.") else None
    if reader is None:
        return None
    try:
        return reader(module, path)
    except UnreadableError as error:
        return Opaque(module, str(error))


# Where the magnitude of an operation stands: by the name of Kornia's factor, the range's name.
_FACTOR_RANGES = {
    "brightness_factor": "factor",
    "contrast_factor": "factor",
    "saturation_factor": "factor",
    "hue_factor": "factor",
    "bits_factor": "bits",
    "thresholds": "threshold",
    "additions": "addition",
    "sharpness": "factor",
    "degrees": "angle",
    "shear_x": "shear_x",
    "shear_y": "shear_y",
    "translate_x": "translate_x",
    "translate_y": "translate_y",
}
# Kornia's shears are fractions of half a turn.
_SHEAR_DEGREES = 180.0


def _kornia_rand_augment(module: Any, path: str) -> list[Operation]:
    share = module.m / 30
    branches = [[_kornia_operation(policy[0], share)] for policy in module.children()]
    stream = below(path, "slot")
    draws = (choose(branches, stream=stream, draw=draw, without_replacement=True) for draw in range(module.n))
    return [operation for draw in draws for operation in draw]


def _kornia_one_policy(module: Any, path: str) -> list[Operation]:
    """Read TrivialAugment and AutoAugment: one sub-policy, with all of its operations."""
    branches = [[_kornia_operation(operation) for operation in policy.children()] for policy in module.children()]
    return choose(branches, stream=below(path, "policy"))


def _kornia_operation(wrapper: Any, share: float | None = None) -> Operation:
    """Read an operation of a policy.

    Args:
        wrapper: Kornia's ``OperationBase``, which gives an augmentation a magnitude and a sign.
        share: RandAugment's magnitude as a part of the range, or ``None`` where it is drawn from the range.
    """
    from torchaug_gen.augment import kornia_reader

    steps = kornia_reader.read(wrapper.op)
    if len(steps) != 1 or not isinstance(steps[0], Operation):
        reason = f": {steps[0].reason}" if steps and isinstance(steps[0], Opaque) else ""
        raise UnreadableError(f"contains {type(wrapper.op).__name__}{reason}")
    operation = replace(steps[0], name=type(wrapper).__name__)
    factor = wrapper._factor_name
    if factor is None:
        return operation
    low, high = (float(limit) for limit in wrapper.magnitude_range)
    if factor == "bits_factor" and share is not None:
        # More magnitude is fewer bits, and decimals are cut off: in float32, which decides where that just happens.
        low = high = float(int((1 - np.float32(share)) * np.float32(high - low) + np.float32(low)))
    elif share is not None:
        low = high = low + share * (high - low)
    if factor.startswith("shear"):
        low, high = low * _SHEAR_DEGREES, high * _SHEAR_DEGREES
    return _with_range(operation, _FACTOR_RANGES[factor], constant_range(low, high, signed=wrapper.symmetric_megnitude))


def _with_range(operation: Operation, name: str, values: Sequence[Number]) -> Operation:
    """Return the operation with another range of that name."""
    flat: list[float] = []
    offset = 0
    for constant in CONSTANTS[operation.kind]:
        width = 4 if constant.endswith("*4") else 1
        same = constant == f"{name}*4"
        flat += [float(value) for value in (values if same else operation.constants[offset : offset + width])]
        offset += width
    return replace(operation, constants=(*flat, *operation.constants[offset:]))


_KORNIA: dict[str, Callable[[Any, str], list[Operation]]] = {
    "RandAugment": _kornia_rand_augment,
    "TrivialAugment": _kornia_one_policy,
    "AutoAugment": _kornia_one_policy,
}
