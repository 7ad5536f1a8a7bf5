"""Read torchvision's transforms, v2 and their namesakes of v1, into operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchaug_gen.augment import policies
from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.choices import below, choose
from torchaug_gen.augment.operation import Gate, Kind, Opaque, Operation, Padding, Size, constant_range
from torchaug_gen.augment.torchvision_settings import (
    UnreadableError,
    constants,
    entry_for_images,
    fill,
    library_name,
    resize_filter,
    unit_values,
    warp_filter,
)

Step = Operation | AugMix | Opaque

_NONE = constant_range(0, 0)
_ONE = constant_range(1, 1)
# torchvision's own grey, which differs from the usual .299 in the fourth decimal.
_GREY = {"red": 0.2989, "green": 0.587, "blue": 0.114}
_PADDINGS = {
    "constant": Padding.FILL,
    "edge": Padding.BORDER,
    "reflect": Padding.REFLECT,
    "symmetric": Padding.SYMMETRIC,
}


@dataclass(frozen=True)
class _Place:
    """Where in the pipeline a transform stands.

    Args:
        path: begins the names of its streams, which must be unique.
        floating: whether images are known to be floating there.
    """

    path: str
    floating: bool


def read(module: Any, *, path: str = "", floating: bool = False) -> list[Step]:
    """Read one transform, or a list of them.

    Given the same parameters, the operations do what the transform does to floating images; parameters are drawn per
    sample from the transform's own distributions. Conversions of type to floating images are nothing to do: values are
    in [0, 1] anyway, and the caller chooses the dtype of the result. ``inplace`` is ignored.

    Args:
        module: a transform of ``torchvision.transforms.v2``, its namesake of v1, or a sequence of transforms.
        path: begins the names of streams and choices; one program must not read two transforms under one path.
        floating: whether the images are known to be floating, for fill values; see
            :func:`torchaug_gen.augment.torchvision_settings.unit_values`.

    Returns:
        Operations in order, :class:`AugMix`, and :class:`Opaque` for what cannot be read, each with its reason.
    """
    place = _Place(path, floating)
    if isinstance(module, list | tuple):
        return _read_all(module, place)
    if type(module).__module__.startswith("kornia."):
        from torchaug_gen.augment import kornia_reader

        return list(kornia_reader.read(module, path=path))
    name = library_name(module)
    try:
        if (reader := _READERS.get(name or "")) is not None:
            return reader(module, place)
        if (policy := policies.read_torchvision(module, path=path, floating=floating)) is not None:
            return [*policy] if isinstance(policy, list) else [policy]
        if type(module).__module__ == "torch.nn.modules.container" and type(module).__name__ == "Sequential":
            return _read_all(list(module), place)
        raise UnreadableError(_why_not(module, name))
    except UnreadableError as error:
        return [Opaque(module, str(error))]


def _read_all(modules: Sequence[Any], place: _Place) -> list[Step]:
    steps: list[Step] = []
    floating = place.floating
    for index, module in enumerate(modules):
        steps += read(module, path=below(place.path, index), floating=floating)
        floating = floating_after(module, floating=floating)
    return steps


def floating_after(module: Any, *, floating: bool) -> bool:
    """Return whether images are known to be floating after a transform."""
    name = library_name(module)
    inner = module if isinstance(module, list | tuple) else getattr(module, "transforms", None)
    if name in (None, "Compose") and isinstance(inner, list | tuple):
        for part in inner:
            floating = floating_after(part, floating=floating)
        return floating
    if name in ("ToTensor", "Normalize"):
        return True
    if name in ("ToDtype", "ConvertImageDtype"):
        dtype = entry_for_images(module.dtype) if isinstance(module.dtype, dict) else module.dtype
        return floating if dtype is None else bool(dtype.is_floating_point)
    return floating


def _why_not(module: Any, name: str | None) -> str:
    if name is not None:
        return _REASONS.get(name, "not an operation that can be fused")
    for base in type(module).__mro__[1:]:
        if base.__module__.startswith("torchvision.transforms") and base.__name__ in _READERS:
            return f"a subclass of torchvision's {base.__name__}, which may do anything"
    return "a transform of your own"


# Geometry


def _flip(kind: Kind) -> "Callable[[Any, _Place], list[Step]]":
    def read_flip(module: Any, _place: _Place) -> list[Step]:
        return [Operation(kind, type(module).__name__, probability=float(module.p))]

    return read_flip


def _affine(module: Any, place: _Place, **changes: Any) -> list[Step]:
    centre = (0.0, 0.0) if module.center is None else module.center
    values: dict[str, Any] = {
        "style": 1,
        "angle": constant_range(*module.degrees),
        "translate_x": _NONE,
        "translate_y": _NONE,
        "translate_pixels": 0,
        "translate_whole": 1,
        "scale_x": _ONE,
        "scale_y": _ONE,
        "scale_joint": 1,
        "shear_x": _NONE,
        "shear_y": _NONE,
        "centre_given": int(module.center is not None),
        "centre_x": centre[0],
        "centre_y": centre[1],
    }
    return [
        Operation(
            Kind.AFFINE,
            type(module).__name__,
            constants(Kind.AFFINE, **(values | changes)),
            filter=warp_filter(module),
            padding=Padding.FILL,
            fill=fill(module, floating=place.floating),
        )
    ]


def _random_rotation(module: Any, place: _Place) -> list[Step]:
    if module.expand:
        raise UnreadableError("expand=True makes the output's size depend on the angle")
    return _affine(module, place, angle_sign=1)


def _random_affine(module: Any, place: _Place) -> list[Step]:
    changes: dict[str, Any] = {"angle_sign": -1}
    if module.translate is not None:
        for name, most in zip(("translate_x", "translate_y"), module.translate, strict=True):
            changes[name] = constant_range(-most, most)
    if module.scale is not None:
        changes["scale_x"] = changes["scale_y"] = constant_range(*module.scale)
    if module.shear is not None:
        changes["shear_x"] = constant_range(*module.shear[:2])
        if len(module.shear) == 4:
            changes["shear_y"] = constant_range(*module.shear[2:])
    return _affine(module, place, **changes)


def _random_perspective(module: Any, place: _Place) -> list[Step]:
    return [
        Operation(
            Kind.PERSPECTIVE,
            "RandomPerspective",
            constants(Kind.PERSPECTIVE, style=2, distortion=module.distortion_scale),
            probability=float(module.p),
            filter=warp_filter(module),
            padding=Padding.FILL,
            fill=fill(module, floating=place.floating),
        )
    ]


def _random_crop(module: Any, place: _Place) -> list[Step]:
    left, top, right, bottom = _crop_padding(module)
    looks_outside = bool(module.pad_if_needed or left or top or right or bottom)
    return [
        Operation(
            Kind.CROP,
            "RandomCrop",
            constants(
                Kind.CROP,
                size=Size.FIXED,
                a=module.size[0],
                b=module.size[1],
                place=0,
                left=left,
                top=top,
                right=right,
                bottom=bottom,
                pad_if_needed=int(module.pad_if_needed),
            ),
            padding=_padding(module) if looks_outside else None,
            fill=fill(module, floating=place.floating),
        )
    ]


def _crop_padding(module: Any) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a RandomCrop, which v2 keeps as left, right, top, bottom."""
    if not module.padding:
        return 0, 0, 0, 0
    if type(module).__module__.startswith("torchvision.transforms.v2"):
        left, right, top, bottom = module.padding
        return left, top, right, bottom
    return _sides(module.padding)


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of one, two or four numbers."""
    numbers = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = {1: numbers * 4, 2: numbers * 2, 4: numbers}[len(numbers)]
    return left, top, right, bottom


def _padding(module: Any) -> Padding:
    return _PADDINGS[module.padding_mode]


def _center_crop(module: Any, _place: _Place) -> list[Step]:
    where = dict.fromkeys(("left", "top", "right", "bottom", "pad_if_needed"), 0)
    values = constants(Kind.CROP, size=Size.FIXED, a=module.size[0], b=module.size[1], place=1, **where)
    return [Operation(Kind.CROP, "CenterCrop", values, padding=Padding.FILL)]


def _pad(module: Any, place: _Place) -> list[Step]:
    left, top, right, bottom = _sides(module.padding)
    if min(left, top, right, bottom) < 0:
        raise UnreadableError(f"negative padding {module.padding} cuts off pixels")
    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    values = constants(Kind.CROP, size=Size.PADDED, a=0, b=0, place=3, pad_if_needed=0, **sides)
    filling = fill(module, floating=place.floating)
    return [Operation(Kind.CROP, "Pad", values, padding=_padding(module), fill=filling)]


def _random_resized_crop(module: Any, _place: _Place) -> list[Step]:
    how, grid = resize_filter(module)
    values = constants(
        Kind.RESIZED_CROP,
        style=1,
        a=module.size[0],
        b=module.size[1],
        scale_low=module.scale[0],
        scale_high=module.scale[1],
        ratio_low=module.ratio[0],
        ratio_high=module.ratio[1],
        grid=grid,
    )
    return [Operation(Kind.RESIZED_CROP, "RandomResizedCrop", values, filter=how)]


def _resize(module: Any, _place: _Place) -> list[Step]:
    how, grid = resize_filter(module)
    size = [module.size] if isinstance(module.size, int) else module.size
    most = module.max_size
    if size is None:
        rule, a, b = Size.LONG, most, 0
    elif len(size) == 1:
        if most is not None and most <= size[0]:
            raise UnreadableError(f"max_size {most} is not above size {size[0]}, which torchvision refuses")
        rule, a, b = Size.SHORT, size[0], most or 0
    else:
        rule, (a, b) = Size.FIXED, size
    values = constants(Kind.RESIZE, size=rule, a=a, b=b, grid=grid)
    return [Operation(Kind.RESIZE, "Resize", values, filter=how)]


# Colour


def _color_jitter(module: Any, _place: _Place) -> list[Step]:
    values: dict[str, Any] = {"style": 2, "fixed": 0, "first": 0, "second": 1, "third": 2, "fourth": 3}
    for name in ("brightness", "contrast", "saturation", "hue"):
        limits = getattr(module, name)
        neutral = 0 if name == "hue" else 1
        values[f"{name}_on"] = int(limits is not None)
        values[name] = constant_range(*((neutral, neutral) if limits is None else limits))
    return [Operation(Kind.JITTER, "ColorJitter", constants(Kind.JITTER, **values))]


def _grey(name: str, probability: float) -> list[Step]:
    values = constants(Kind.GRAYSCALE, weights_given=1, **_GREY)
    return [Operation(Kind.GRAYSCALE, name, values, probability=probability)]


def _random_grayscale(module: Any, _place: _Place) -> list[Step]:
    return _grey("RandomGrayscale", float(module.p))


def _grayscale(module: Any, _place: _Place) -> list[Step]:
    if module.num_output_channels != 3:
        raise UnreadableError(f"num_output_channels={module.num_output_channels} changes the number of channels")
    return _grey("Grayscale", 1.0)


def _pointwise(kind: Kind, **values: float) -> "Callable[[Any, _Place], list[Step]]":
    """Return the reader of a transform that has nothing but a probability."""

    def read_pointwise(module: Any, _place: _Place) -> list[Step]:
        probability = float(getattr(module, "p", 1.0))
        return [Operation(kind, type(module).__name__, constants(kind, **values), probability=probability)]

    return read_pointwise


def _random_solarize(module: Any, place: _Place) -> list[Step]:
    (threshold,) = unit_values([module.threshold], floating=place.floating)
    if threshold != module.threshold:
        # Half a level lower, so that no rounding of 1/255 can part a level from a threshold equal to it.
        threshold -= 0.5 / 255
    values = constants(Kind.SOLARIZE, threshold=constant_range(threshold, threshold), addition=_NONE)
    return [Operation(Kind.SOLARIZE, "RandomSolarize", values, probability=float(module.p))]


def _random_posterize(module: Any, _place: _Place) -> list[Step]:
    values = constants(Kind.POSTERIZE, style=1, bits=constant_range(module.bits, module.bits))
    return [Operation(Kind.POSTERIZE, "RandomPosterize", values, probability=float(module.p))]


def _random_adjust_sharpness(module: Any, _place: _Place) -> list[Step]:
    factor = float(module.sharpness_factor)
    values = constants(Kind.SHARPNESS, style=1, factor=constant_range(factor, factor))
    return [Operation(Kind.SHARPNESS, "RandomAdjustSharpness", values, probability=float(module.p))]


def _random_photometric_distort(module: Any, place: _Place) -> list[Step]:
    """Read it as six operations; contrast stands before and after saturation and hue, behind either side of a coin."""

    def part(kind: Kind, **values: Any) -> Operation:
        return Operation(kind, f"RandomPhotometricDistort.{kind.name.lower()}", constants(kind, **values), module.p)

    contrast = part(Kind.CONTRAST, style=1, factor=constant_range(*module.contrast), clip=1)
    before, after = choose([[contrast], [contrast]], stream=below(place.path, "contrast_before"))
    return [
        part(Kind.BRIGHTNESS, style=1, factor=constant_range(*module.brightness), clip=1),
        before,
        part(Kind.SATURATION, style=1, factor=constant_range(*module.saturation)),
        part(Kind.HUE, factor=constant_range(*module.hue)),
        after,
        part(Kind.CHANNEL_SHUFFLE),
    ]


def _normalize(module: Any, _place: _Place) -> list[Step]:
    means = [float(mean) for mean in module.mean]
    deviations = [float(deviation) for deviation in module.std]
    channels = max(len(means), len(deviations))
    if len(means) != len(deviations):
        # torchvision broadcasts one value over all channels.
        means, deviations = (v * channels if len(v) == 1 else v for v in (means, deviations))
    if not len(means) == len(deviations) == channels or 0.0 in deviations:
        raise UnreadableError(f"mean {module.mean} and std {module.std} do not fit together, or a std is 0")
    scales = [1 / deviation for deviation in deviations]
    shifts = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return [Operation(Kind.NORMALIZE, "Normalize", (float(channels), *scales, *shifts))]


# Cover


def _random_erasing(module: Any, place: _Place) -> list[Step]:
    value = module.value
    if value is None or isinstance(value, str):
        values: tuple[float, ...] = ()
    else:
        values = unit_values([value] if isinstance(value, int | float) else value, floating=place.floating)
    head = constants(
        Kind.ERASE,
        style=1,
        scale_low=module.scale[0],
        scale_high=module.scale[1],
        ratio_low=module.ratio[0],
        ratio_high=module.ratio[1],
        values=len(values),
    )
    return [Operation(Kind.ERASE, "RandomErasing", (*head, *values), probability=float(module.p))]


def _gaussian_noise(module: Any, _place: _Place) -> list[Step]:
    values = constants(
        Kind.GAUSSIAN_NOISE,
        mean=constant_range(module.mean, module.mean),
        sigma=constant_range(module.sigma, module.sigma),
        clip=int(module.clip),
    )
    return [Operation(Kind.GAUSSIAN_NOISE, "GaussianNoise", values)]


# Containers and conversions


def _operations(modules: Sequence[Any], place: _Place) -> list[Operation]:
    """Read transforms that must all be operations, because they act together or not at all."""
    operations = []
    for step in _read_all(modules, place):
        if isinstance(step, Opaque):
            raise UnreadableError(f"contains {type(step.module).__name__}: {step.reason}")
        if isinstance(step, AugMix):
            raise UnreadableError("contains AugMix, which stands for itself")
        operations.append(step)
    return operations


def _compose(module: Any, place: _Place) -> list[Step]:
    return _read_all(module.transforms, place)


def _random_apply(module: Any, place: _Place) -> list[Step]:
    gate = Gate(below(place.path, "apply"), 0.0, float(module.p))
    return [operation.behind(gate) for operation in _operations(list(module.transforms), place)]


def _random_choice(module: Any, place: _Place) -> list[Step]:
    branches = [
        _operations([transform], _Place(below(place.path, index), place.floating))
        for index, transform in enumerate(module.transforms)
    ]
    return [*choose(branches, stream=below(place.path, "choice"), weights=module.p)]


def _conversion(module: Any, _place: _Place) -> list[Step]:
    dtype = entry_for_images(module.dtype) if isinstance(module.dtype, dict) else module.dtype
    if dtype is None:
        return []
    if not dtype.is_floating_point:
        raise UnreadableError(f"converts to {dtype}: operations work on floating values in [0, 1]")
    if not getattr(module, "scale", True):
        raise UnreadableError(f"converts to {dtype} without scale=True, which leaves levels 0..255 as they are")
    return []


def _nothing(_module: Any, _place: _Place) -> list[Step]:
    return []


_READERS: "dict[str, Callable[[Any, _Place], list[Step]]]" = {
    "RandomHorizontalFlip": _flip(Kind.HORIZONTAL_FLIP),
    "RandomVerticalFlip": _flip(Kind.VERTICAL_FLIP),
    "RandomRotation": _random_rotation,
    "RandomAffine": _random_affine,
    "RandomPerspective": _random_perspective,
    "RandomCrop": _random_crop,
    "CenterCrop": _center_crop,
    "Pad": _pad,
    "RandomResizedCrop": _random_resized_crop,
    "Resize": _resize,
    "ColorJitter": _color_jitter,
    "RandomGrayscale": _random_grayscale,
    "Grayscale": _grayscale,
    "RandomInvert": _pointwise(Kind.INVERT, maximum=1.0),
    "RandomSolarize": _random_solarize,
    "RandomPosterize": _random_posterize,
    "RandomEqualize": _pointwise(Kind.EQUALIZE, style=1),
    "RandomAutocontrast": _pointwise(Kind.AUTOCONTRAST, style=1, clip=1),
    "RandomAdjustSharpness": _random_adjust_sharpness,
    "RandomChannelPermutation": _pointwise(Kind.CHANNEL_SHUFFLE),
    "RandomPhotometricDistort": _random_photometric_distort,
    "Normalize": _normalize,
    "RandomErasing": _random_erasing,
    "GaussianNoise": _gaussian_noise,
    "Compose": _compose,
    "RandomApply": _random_apply,
    "RandomChoice": _random_choice,
    "ToDtype": _conversion,
    "ConvertImageDtype": _conversion,
    "ToTensor": _nothing,
    "PILToTensor": _nothing,
    "ToImage": _nothing,
    "ToPureTensor": _nothing,
    "Identity": _nothing,
}

_REASONS = {
    "RandomOrder": "runs its transforms in a random order, which a program cannot",
    "Lambda": "a function of your own",
    "GaussianBlur": "a blur reads the neighbours of each pixel",
    "ElasticTransform": "moves each pixel by its own offset, which no homography does",
    "JPEG": "compresses blocks of pixels",
    "LinearTransformation": "mixes all pixels of an image",
    "FiveCrop": "returns several images for one",
    "TenCrop": "returns several images for one",
    "RGB": "changes the number of channels",
    "RandomZoomOut": "pads to a random size",
    "RandomShortestSize": "resizes to a random size",
    "RandomResize": "resizes to a random size",
    "ScaleJitter": "resizes to a random size",
    "RandomIoUCrop": "crops by the boxes in the image",
    "ToPILImage": "leaves tensors behind",
    "MixUp": "blends images of a batch: use torchaug_gen.MixUp",
    "CutMix": "cuts images of a batch into each other: use torchaug_gen.CutMix",
    "UniformTemporalSubsample": "drops frames of a video",
    "ConvertBoundingBoxFormat": "works on boxes alone",
    "ClampBoundingBoxes": "works on boxes alone",
    "SanitizeBoundingBoxes": "works on boxes alone",
    "SetClampingMode": "works on boxes alone",
    "ClampKeyPoints": "works on keypoints alone",
    "SanitizeKeyPoints": "works on keypoints alone",
}
