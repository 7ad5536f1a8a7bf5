"""Read Kornia's augmentations into operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchaug_gen.augment.choices import choose
from torchaug_gen.augment.operation import Filter, Gate, Kind, Opaque, Operation, Padding, Size, constant_range
from torchaug_gen.augment.torchvision_settings import UnreadableError, constants

Range = tuple[float, float, float, float]

_NONE = constant_range(0, 0)
_ONE = constant_range(1, 1)
_PADDINGS = {"constant": Padding.FILL, "replicate": Padding.BORDER, "reflect": Padding.REFLECT}
_NO_SIDES = {"left": 0, "top": 0, "right": 0, "bottom": 0, "pad_if_needed": 0}


def read(module: Any, *, path: str = "") -> list[Operation | Opaque]:
    """Read one augmentation, or a container of them.

    Given the same parameters, the operations do what the augmentation does to images in [0, 1]. Parameters are drawn
    from the augmentation's own distributions; the order of ColorJitter and ColorJiggle is each sample's own, where
    Kornia draws one per batch. ``keepdim`` is for shapes that a program never sees, and ``align_corners`` of warps
    changes nothing but where a reflection folds.

    Args:
        module: an augmentation of ``kornia.augmentation``, or an ImageSequential, AugmentationSequential or
            ``torch.nn.Sequential`` of them.
        path: begins the names of streams and choices; one program must not read two modules under one path.

    Returns:
        Operations in order, and :class:`Opaque` for what cannot be read, each with its reason.
    """
    name = _library_name(module)
    if name == "Sequential" and type(module).__module__ == "torch.nn.modules.container":
        return _read_all(module, path)
    try:
        if name in ("ImageSequential", "AugmentationSequential"):
            return _sequential(module, path)
        if (reader := _READERS.get(name or "")) is not None:
            if any(parameter.requires_grad for parameter in module.parameters()):
                raise UnreadableError("learns the ranges of its parameters")
            return [_behind_batch_coin(reader(module), module, path)]
        if type(module).__module__.startswith("kornia.augmentation.auto."):
            from torchaug_gen.augment import policies

            policy = policies.read_kornia(module, path=path)
            if isinstance(policy, list | Opaque):
                return [policy] if isinstance(policy, Opaque) else [*policy]
        raise UnreadableError(_why_not(module, name))
    except UnreadableError as error:
        return [Opaque(module, str(error))]


def _library_name(module: object) -> str | None:
    """Return the name of the library's class that a module is an instance of, subclasses excluded, else ``None``."""
    cls = type(module)
    return cls.__name__ if cls.__module__.startswith(("kornia.", "torch.nn.modules.container")) else None


def _why_not(module: Any, name: str | None) -> str:
    if name is not None:
        return _REASONS.get(name, "not an operation that can be fused")
    for base in type(module).__mro__[1:]:
        if base.__module__.startswith("kornia.") and base.__name__ in _READERS:
            return f"a subclass of Kornia's {base.__name__}, which may do anything"
    return "a module of your own"


def _read_all(modules: Any, path: str) -> list[Operation | Opaque]:
    return [step for index, module in enumerate(modules.children()) for step in read(module, path=f"{path}{index}.")]


def _sequential(module: Any, path: str) -> list[Operation | Opaque]:
    if not module.random_apply:
        return _read_all(module, path)
    if module.random_apply != (1, 2):
        raise UnreadableError("random_apply runs some of its augmentations in a random order")
    branches: list[list[Operation]] = []
    for index, child in enumerate(module.children()):
        steps = read(child, path=f"{path}{index}.")
        opaque = [step for step in steps if isinstance(step, Opaque)]
        if opaque:
            raise UnreadableError(f"random_apply chooses from {type(opaque[0].module).__name__}: {opaque[0].reason}")
        branches.append([step for step in steps if isinstance(step, Operation)])
    weights = [float(weight) for weight in module.random_apply_weights]
    chosen = choose(branches, stream=f"{path}choice", weights=weights)
    # Kornia chooses once per batch.
    return [replace(o, gates=(*o.gates[:-1], replace(o.gates[-1], shared=True))) for o in chosen]


def _behind_batch_coin(operation: Operation, module: Any, path: str) -> Operation:
    """Return the operation with the chances of its module: ``p_batch`` for the batch, and ``p`` for each sample."""
    shared = bool(module.same_on_batch)
    operation = replace(operation, name=type(module).__name__, probability=float(module.p), shared=shared)
    if module.p_batch == 1:
        return operation
    if shared:
        return replace(operation, probability=operation.probability * float(module.p_batch))
    return operation.behind(Gate(f"{path}batch", 0.0, float(module.p_batch), shared=True))


# Settings


def _drawn(module: Any, name: str) -> Range:
    """Return the range of a parameter by the name that Kornia gives it."""
    return _limits(module._param_generator.sampler_dict[name])


def _limits(sampler: Any) -> Range:
    """Return the range of one of Kornia's uniform distributions."""
    return constant_range(float(sampler.low), float(sampler.high))


def _optional(sampler: Any, otherwise: Range) -> Range:
    return otherwise if sampler is None else _limits(sampler)


def _filter(module: Any) -> Filter:
    name = module.flags["resample"].name
    if name == "BICUBIC":
        raise UnreadableError("resample='bicubic': warps interpolate by 'nearest' or 'bilinear'")
    return Filter.NEAREST if name == "NEAREST" else Filter.BILINEAR


def _outside(module: Any) -> tuple[Padding, tuple[float, ...]]:
    """Return the rule and the fill value of a warp."""
    name = module.flags["padding_mode"].name
    if name == "BORDER":
        return Padding.BORDER, (0.0,)
    if name == "REFLECTION":
        # grid_sample folds about the centres of the outermost pixels where align_corners, else about their edges.
        return (Padding.REFLECT if module.flags["align_corners"] else Padding.SYMMETRIC), (0.0,)
    if name == "FILL" and module.flags.get("fill_value") is not None:
        return Padding.FILL, _numbers(module.flags["fill_value"])
    return Padding.FILL, (0.0,)


def _numbers(value: Any) -> tuple[float, ...]:
    """Return one number, or one per channel, of what a module takes for such.

    Raises:
        UnreadableError: a tensor that differs by sample or by pixel.
    """
    if isinstance(value, int | float):
        return (float(value),)
    if hasattr(value, "dim"):
        # (1, C, 1, 1) and (1, C) are channels.
        shape = list(value.shape)
        while len(shape) > 1 and shape[-1] == 1:
            shape.pop()
        while len(shape) > 1 and shape[0] == 1:
            shape.pop(0)
        if len(shape) > 1:
            raise UnreadableError(f"a value of shape {tuple(value.shape)} differs by sample or pixel")
        value = value.flatten().tolist()
    return tuple(float(number) for number in value)


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else (int(side) for side in size)
    return height, width


# Geometry


def _plain(kind: Kind) -> "Callable[[Any], Operation]":
    """Return the reader of an augmentation that has nothing but a probability."""

    def read_plain(_module: Any) -> Operation:
        return Operation(kind, "")

    return read_plain


def _affine(module: Any, padding: Padding = Padding.FILL, fill: tuple[float, ...] = (0.0,), **ranges: Any) -> Operation:
    values: dict[str, Any] = {
        "style": 0,
        "angle_sign": 1,
        **dict.fromkeys(("angle", "translate_x", "translate_y", "shear_x", "shear_y"), _NONE),
        "translate_pixels": 0,
        "translate_whole": 0,
        "scale_x": _ONE,
        "scale_y": _ONE,
        "scale_joint": 1,
        "centre_given": 0,
        "centre_x": 0,
        "centre_y": 0,
    }
    values |= ranges
    return Operation(
        Kind.AFFINE, "", constants(Kind.AFFINE, **values), filter=_filter(module), padding=padding, fill=fill
    )


def _rotation(module: Any) -> Operation:
    return _affine(module, angle=_drawn(module, "degrees"))


def _quarter_turns(module: Any) -> Operation:
    return Operation(Kind.QUARTER_TURNS, "", _drawn(module, "times"), filter=_filter(module), padding=Padding.FILL)


def _random_affine(module: Any) -> Operation:
    generator = module._param_generator
    ranges: dict[str, Any] = {
        "angle_sign": -1,
        "angle": _limits(generator.degree_sampler),
        "translate_x": _optional(generator.translate_x_sampler, _NONE),
        "translate_y": _optional(generator.translate_y_sampler, _NONE),
        "scale_x": _optional(generator.scale_2_sampler, _ONE),
        "scale_y": _optional(generator.scale_4_sampler, _ONE),
        "scale_joint": int(generator.scale_4_sampler is None),
        "shear_x": _optional(generator.shear_x_sampler, _NONE),
        "shear_y": _optional(generator.shear_y_sampler, _NONE),
    }
    return _affine(module, *_outside(module), **ranges)


def _shear(module: Any) -> Operation:
    generator = module._param_generator
    shear_x, shear_y = _limits(generator.shear_x_sampler), _limits(generator.shear_y_sampler)
    return _affine(module, *_outside(module), shear_x=shear_x, shear_y=shear_y)


def _translate(module: Any) -> Operation:
    generator = module._param_generator
    return _affine(
        module,
        *_outside(module),
        translate_x=_optional(generator.translate_x_sampler, _NONE),
        translate_y=_optional(generator.translate_y_sampler, _NONE),
    )


def _perspective(module: Any) -> Operation:
    generator = module._param_generator
    style = 1 if generator.sampling_method == "area_preserving" else 0
    values = constants(Kind.PERSPECTIVE, style=style, distortion=float(generator.distortion_scale))
    return Operation(Kind.PERSPECTIVE, "", values, filter=_filter(module), padding=Padding.FILL)


def _random_crop(module: Any) -> Operation:
    flags = module.flags
    height, width = _pair(flags["size"])
    # Four numbers are left, top, right, bottom; two are those of left and right, and of top and bottom.
    padding = flags["padding"] or 0
    numbers = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = {1: numbers * 4, 2: numbers * 2, 4: numbers}[len(numbers)]
    values = constants(
        Kind.CROP,
        size=Size.FIXED,
        a=height,
        b=width,
        place=0,
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        pad_if_needed=2 if flags["pad_if_needed"] else 0,
    )
    return Operation(Kind.CROP, "", values, padding=_pixel_padding(flags["padding_mode"]), fill=_numbers(flags["fill"]))


def _pixel_padding(mode: str) -> Padding:
    """Return the rule of a mode of ``torch.nn.functional.pad``."""
    if mode not in _PADDINGS:
        raise UnreadableError(f"padding mode {mode!r}: images are padded by {', '.join(map(repr, _PADDINGS))}")
    return _PADDINGS[mode]


def _center_crop(module: Any) -> Operation:
    height, width = _pair(module.size)
    values = constants(Kind.CROP, size=Size.FIXED, a=height, b=width, place=2, **_NO_SIDES)
    return Operation(Kind.CROP, "", values)


def _pad_to(module: Any) -> Operation:
    flags = module.flags
    if not flags.get("crop_if_exceeds", True):
        raise UnreadableError("crop_if_exceeds=False makes the output as large as the image where that is larger")
    height, width = _pair(flags["size"])
    values = constants(Kind.CROP, size=Size.FIXED, a=height, b=width, place=3, **_NO_SIDES)
    fill = (float(flags["pad_value"] or 0.0),)
    return Operation(Kind.CROP, "", values, padding=_pixel_padding(flags["pad_mode"]), fill=fill)


def _resize_grid(module: Any, how: Filter) -> int:
    """Return the code of the grid that a resize samples on: Kornia's "nearest" is torch's "nearest-exact"."""
    return int(how is Filter.BILINEAR and bool(module.flags["align_corners"]))


def _random_resized_crop(module: Any) -> Operation:
    generator, how = module._param_generator, _filter(module)
    height, width = _pair(module.flags["size"])
    # A crop by warping puts the corners of the window into those of the output, whatever align_corners is.
    warps = module.flags["cropping_mode"] == "resample"
    (scale_low, scale_high), (ratio_low, ratio_high) = (map(float, pair) for pair in (generator.scale, generator.ratio))
    values = constants(
        Kind.RESIZED_CROP,
        style=0,
        a=height,
        b=width,
        scale_low=scale_low,
        scale_high=scale_high,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        grid=1 if warps else _resize_grid(module, how),
    )
    return Operation(Kind.RESIZED_CROP, "", values, filter=how)


def _resize(module: Any) -> Operation:
    flags, how = module.flags, _filter(module)
    if flags["antialias"]:
        raise UnreadableError("antialias=True blurs images before they shrink: see fuse(..., antialias=True)")
    size, side = flags["size"], flags["side"]
    if not isinstance(size, int):
        rule, (a, b) = Size.FIXED, _pair(size)
    elif side in ("short", "long"):
        rule, a, b = (Size.KORNIA_SHORT if side == "short" else Size.KORNIA_LONG), size, 0
    else:
        raise UnreadableError(f"side={side!r}: sizes are given by the 'short' or the 'long' side")
    values = constants(Kind.RESIZE, size=rule, a=a, b=b, grid=_resize_grid(module, how))
    return Operation(Kind.RESIZE, "", values, filter=how)


# Colour


def _jitter(style: int) -> "Callable[[Any], Operation]":
    def read_jitter(module: Any) -> Operation:
        generator = module._param_generator
        order = module._fixed_order
        values: dict[str, Any] = {"style": style, "fixed": int(order is not None)}
        for index, place in enumerate(("first", "second", "third", "fourth")):
            values[place] = index if order is None else order[index] if index < len(order) else -1
        for name in ("brightness", "contrast", "saturation", "hue"):
            limits = _limits(getattr(generator, f"{name}_sampler"))
            values[name] = limits
            values[f"{name}_on"] = int(limits != (_NONE if name == "hue" else _ONE))
        return Operation(Kind.JITTER, "", constants(Kind.JITTER, **values))

    return read_jitter


def _ranged(kind: Kind, *, names: dict[str, str], **values: float) -> "Callable[[Any], Operation]":
    """Return the reader of an augmentation with uniform parameters.

    Args:
        kind: what it does.
        names: our names of the ranges, and Kornia's.
        values: the other constants.
    """

    def read_ranged(module: Any) -> Operation:
        ranges = {ours: _drawn(module, theirs) for ours, theirs in names.items()}
        clip = {"clip": int(module.clip_output)} if hasattr(module, "clip_output") else {}
        return Operation(kind, "", constants(kind, **ranges, **values, **clip))

    return read_ranged


def _posterize(module: Any) -> Operation:
    bits = _limits(module._param_generator.bit_sampler)
    return Operation(Kind.POSTERIZE, "", constants(Kind.POSTERIZE, style=0, bits=bits))


def _invert(module: Any) -> Operation:
    maximum = _numbers(module.flags["max_val"])
    if len(maximum) != 1:
        raise UnreadableError("max_val differs by channel")
    return Operation(Kind.INVERT, "", maximum)


def _autocontrast(module: Any) -> Operation:
    values = constants(Kind.AUTOCONTRAST, style=0, clip=int(module.clip_output))
    return Operation(Kind.AUTOCONTRAST, "", values)


def _equalize(_module: Any) -> Operation:
    return Operation(Kind.EQUALIZE, "", constants(Kind.EQUALIZE, style=0))


def _grayscale(module: Any) -> Operation:
    weights = (0.0, 0.0, 0.0) if module.rgb_weights is None else _numbers(module.rgb_weights)
    if len(weights) != 3:
        raise UnreadableError(f"rgb_weights has {len(weights)} weights, not 3")
    return Operation(Kind.GRAYSCALE, "", (float(module.rgb_weights is not None), *weights))


def _channel_dropout(module: Any) -> Operation:
    values = constants(Kind.CHANNEL_DROPOUT, count=module.num_drop_channels, fill=float(module.fill_value))
    return Operation(Kind.CHANNEL_DROPOUT, "", values)


def _planckian(module: Any) -> Operation:
    rows = [float(number) for row in module.pl.tolist() for number in row]
    return Operation(Kind.PLANCKIAN, "", (float(len(rows) // 2), *rows))


def _normalize(module: Any) -> Operation:
    means, deviations = _means_and_deviations(module)
    if 0.0 in deviations:
        raise UnreadableError(f"std {deviations} divides by 0")
    scales = [1 / deviation for deviation in deviations]
    shifts = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return Operation(Kind.NORMALIZE, "", (float(len(scales)), *scales, *shifts))


def _denormalize(module: Any) -> Operation:
    means, deviations = _means_and_deviations(module)
    return Operation(Kind.NORMALIZE, "", (float(len(means)), *deviations, *means))


def _means_and_deviations(module: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return as many means as standard deviations: one that stands alone is for all channels."""
    means, deviations = _numbers(module.flags["mean"]), _numbers(module.flags["std"])
    channels = max(len(means), len(deviations))
    means, deviations = (values * channels if len(values) == 1 else values for values in (means, deviations))
    if len(means) != len(deviations):
        raise UnreadableError(f"mean for {len(means)} channels and std for {len(deviations)} do not fit together")
    return means, deviations


# Cover


def _erasing(module: Any) -> Operation:
    (scale_low, scale_high), (ratio_low, ratio_high) = (map(float, pair) for pair in (module.scale, module.ratio))
    head = constants(
        Kind.ERASE,
        style=0,
        scale_low=scale_low,
        scale_high=scale_high,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        values=1,
    )
    return Operation(Kind.ERASE, "", (*head, float(module.value)))


def _gaussian_noise(module: Any) -> Operation:
    _check_own_noise(module)
    generator = module._param_generator
    mean, sigma = float(generator.mean), float(generator.std)
    values = constants(Kind.GAUSSIAN_NOISE, mean=constant_range(mean, mean), sigma=constant_range(sigma, sigma), clip=0)
    return Operation(Kind.GAUSSIAN_NOISE, "", values)


def _salt_pepper(module: Any) -> Operation:
    _check_own_noise(module)
    generator = module._param_generator
    amount, salt = _limits(generator.amount_sampler), _limits(generator.salt_and_pepper_sampler)
    return Operation(Kind.SALT_PEPPER, "", constants(Kind.SALT_PEPPER, amount=amount, salt=salt, shared=1))


def _check_own_noise(module: Any) -> None:
    if module.same_on_batch:
        raise UnreadableError("same_on_batch=True puts the same noise on all images")


_READERS: "dict[str, Callable[[Any], Operation]]" = {
    "RandomHorizontalFlip": _plain(Kind.HORIZONTAL_FLIP),
    "RandomVerticalFlip": _plain(Kind.VERTICAL_FLIP),
    "RandomRotation": _rotation,
    "RandomRotation90": _quarter_turns,
    "RandomAffine": _random_affine,
    "RandomShear": _shear,
    "RandomTranslate": _translate,
    "RandomPerspective": _perspective,
    "RandomCrop": _random_crop,
    "CenterCrop": _center_crop,
    "RandomResizedCrop": _random_resized_crop,
    "Resize": _resize,
    "LongestMaxSize": _resize,
    "SmallestMaxSize": _resize,
    "PadTo": _pad_to,
    "ColorJitter": _jitter(0),
    "ColorJiggle": _jitter(1),
    "RandomBrightness": _ranged(Kind.BRIGHTNESS, names={"factor": "brightness_factor"}, style=0),
    "RandomContrast": _ranged(Kind.CONTRAST, names={"factor": "contrast_factor"}, style=0),
    "RandomSaturation": _ranged(Kind.SATURATION, names={"factor": "saturation_factor"}, style=0),
    "RandomHue": _ranged(Kind.HUE, names={"factor": "hue_factor"}),
    "RandomGamma": _ranged(Kind.GAMMA, names={"gamma": "gamma_factor", "gain": "gain_factor"}),
    "RandomSolarize": _ranged(Kind.SOLARIZE, names={"threshold": "thresholds", "addition": "additions"}),
    "RandomPosterize": _posterize,
    "RandomInvert": _invert,
    "RandomEqualize": _equalize,
    "RandomAutoContrast": _autocontrast,
    "RandomGrayscale": _grayscale,
    "RandomChannelShuffle": _plain(Kind.CHANNEL_SHUFFLE),
    "RandomChannelDropout": _channel_dropout,
    "RandomRGBShift": _ranged(Kind.RGB_SHIFT, names={"red": "r_shift", "green": "g_shift", "blue": "b_shift"}),
    "RandomPlanckianJitter": _planckian,
    "RandomSharpness": _ranged(Kind.SHARPNESS, names={"factor": "sharpness"}, style=0),
    "Normalize": _normalize,
    "Denormalize": _denormalize,
    "RandomErasing": _erasing,
    "RandomGaussianNoise": _gaussian_noise,
    "RandomSaltAndPepperNoise": _salt_pepper,
}

_BLUR = "a blur reads the neighbours of each pixel"
_FIELD = "moves each pixel by its own offset, which no homography does"
_MIX = "mixes the images of a batch: use torchaug_gen.MixUp or CutMix"
_REASONS = {
    **dict.fromkeys(("RandomGaussianBlur", "RandomBoxBlur", "RandomMedianBlur", "RandomMotionBlur"), _BLUR),
    **dict.fromkeys(("RandomElasticTransform", "RandomThinPlateSpline", "RandomFisheye"), _FIELD),
    **dict.fromkeys(("RandomMixUpV2", "RandomCutMixV2", "RandomMosaic", "RandomTransplantation", "RandomJigsaw"), _MIX),
    "RandomJPEG": "compresses blocks of pixels",
    "RandomClahe": "equalizes tiles of an image",
    "RandomDissolving": "draws images from a diffusion model",
    "RandomRain": "draws drops of rain",
    "RandomSnow": "changes lightness, which is not among the fused operations",
    **dict.fromkeys(
        ("RandomPlasmaBrightness", "RandomPlasmaContrast", "RandomPlasmaShadow"), "draws a plasma, a picture of its own"
    ),
    **dict.fromkeys(
        ("RandomGaussianIllumination", "RandomLinearIllumination", "RandomLinearCornerIllumination"),
        "adds a gradient of light, which is not among the fused operations",
    ),
    "VideoSequential": "works on clips of several frames",
    "PatchSequential": "augments the patches of an image apart",
    "ManyToManyAugmentationDispather": "runs branches side by side",
    "ManyToOneAugmentationDispather": "runs branches side by side",
}
