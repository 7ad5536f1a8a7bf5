"""Folders that diffusers wrote: unconditional and class-conditional diffusion pipelines, and AutoencoderKL."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from torchaug_gen.synthesis.external.source import Source
from torchaug_gen.synthesis.external.told import Told
from torchaug_gen.synthesis.external.weights import construct, read_safetensors
from torchaug_gen.synthesis.sizes import MAX_LATENT_VALUES, MAX_SIDE, check_arguments, check_count

DEFAULT_STEPS = 50
WEIGHTS = "diffusion_pytorch_model.safetensors"
_SCHEDULER = "scheduler/scheduler_config.json"
_MAX_TRAIN_STEPS = 10_000
# The part of each pipeline that denoises, and which of diffusers' classes it may be.
_PIPELINES = {
    "DDPMPipeline": ("unet", "UNet2DModel"),
    "DDIMPipeline": ("unet", "UNet2DModel"),
    "DiTPipeline": ("transformer", "DiTTransformer2DModel"),
}


class DiffusionNet(nn.Module):
    """A diffusion model as a network from noise to images.

    It runs the deterministic sampler of Song, Meng and Ermon, "Denoising Diffusion Implicit Models" (2021), eq. 12 with
    σ = 0, so that an image is a function of its first noise alone, whatever is drawn beside it.

    Args:
        denoiser: predicts noise, image or velocity from ``(N, C, H, W)``, a time and perhaps labels.
        scheduler: a ``DDIMScheduler``.
        vae: an ``AutoencoderKL`` that decodes what was denoised, or ``None`` for diffusion of pixels.
        steps: how often the denoiser runs, at most as many as the scheduler's training had.
        guidance: weight of classifier-free guidance (Ho and Salimans, 2022); 1 for none.
        null_class: the label that stands for no class, where ``guidance`` is not 1.
    """

    draws_noise = False

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        vae: nn.Module | None = None,
        *,
        steps: int = DEFAULT_STEPS,
        guidance: float = 1.0,
        null_class: int | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.vae, self.scheduler = denoiser, vae, scheduler
        self.guidance, self.null_class = guidance, null_class
        scheduler.set_timesteps(steps)
        self.times: list[int] = scheduler.timesteps.tolist()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images ``(N, C, H, W)`` in [-1, 1] of noise ``(N, C', H', W')``."""
        for time in self.times:
            z = self.scheduler.step(self._predict(z, time, labels), time, z, eta=0.0).prev_sample
        return (z if self.vae is None else decode(self.vae, z)).clamp(-1, 1)

    def _predict(self, z: Tensor, time: int, labels: Tensor | None) -> Tensor:
        if self.guidance == 1 or labels is None:
            return self._denoise(z, time, labels)
        given, free = self._denoise(
            torch.cat((z, z)), time, torch.cat((labels, torch.full_like(labels, cast(int, self.null_class))))
        ).chunk(2)
        return free + self.guidance * (given - free)

    def _denoise(self, z: Tensor, time: int, labels: Tensor | None) -> Tensor:
        times = torch.full((len(z),), time, device=z.device)
        prediction: Tensor = self.denoiser(z, timestep=times, class_labels=labels).sample
        # A model that learned the variance too returns it behind the mean; this sampler has none.
        return prediction[:, : z.shape[1]]


class DecoderNet(nn.Module):
    """The decoder of an ``AutoencoderKL`` as a network from latents, scaled to variance 1, to images in [-1, 1]."""

    draws_noise = False

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` of latents ``(N, C', H', W')``."""
        return decode(self.vae, z).clamp(-1, 1)


def decode(vae: Any, z: Tensor) -> Tensor:
    """Return the images of latents that were scaled to variance 1, as diffusion models learn them."""
    images: Tensor = vae.decode(z / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)).sample
    return images


def load_pipeline(
    source: Source, *, steps: int | None = None, guidance: float | None = None
) -> tuple[DiffusionNet, Told, tuple[str, ...] | None]:
    """Load a pipeline folder; return the network, what the folder tells, and the names of its classes.

    Nothing named in the folder is imported: only the classes listed here are built, from JSON and safetensors.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        ValueError: another pipeline, or a file that is damaged or does not fit.
    """
    import_diffusers()
    index = source.read_json("model_index.json")
    if index.get("_class_name") not in [*_PIPELINES]:
        raise ValueError(
            f"{source.path} must hold one of {', '.join(_PIPELINES)}, got {index.get('_class_name')!r}; "
            "wrap another with Synthesizer.from_module"
        )
    part, kind = _PIPELINES[index["_class_name"]]
    for name, expected in ((part, kind), ("vae", "AutoencoderKL" if kind.startswith("DiT") else None)):
        if expected is not None and index.get(name) != ["diffusers", expected]:
            raise ValueError(f"{source.path}: {name} must be diffusers' {expected}, got {index.get(name)!r}")
    denoiser = _model(source, part, kind)
    vae = _model(source, "vae", "AutoencoderKL") if kind.startswith("DiT") else None
    config = cast(Any, denoiser).config
    num_classes = config.num_embeds_ada_norm if vae is not None else config.num_class_embeds
    if guidance is not None and (vae is None or not guidance >= 1):
        raise ValueError(f"guidance must be at least 1, and 1 for a {kind}, got {guidance}")
    scheduler = _scheduler(source)
    learned = scheduler.config.num_train_timesteps
    steps = min(DEFAULT_STEPS, learned) if steps is None else steps
    check_count("steps", steps, learned)
    net = DiffusionNet(
        denoiser, scheduler, vae, steps=steps, guidance=guidance or 1.0, null_class=None if vae is None else num_classes
    )
    if not 0 <= min(net.times) <= max(net.times) < learned:
        raise ValueError(
            f"{source.path / _SCHEDULER}: its times must be in 0..{learned - 1}, got {min(net.times)}.."
            f"{max(net.times)} with steps={steps}: steps_offset={scheduler.config.steps_offset} may be too large"
        )
    latent_shape = (config.in_channels, *_sides(config.sample_size, source.path))
    told = Told(
        latent_dim=latent_shape,
        image_shape=latent_shape if vae is None else _decoded(vae, latent_shape),
        labelled=num_classes is not None,
        value_range=(-1.0, 1.0),
        num_classes=num_classes,
    )
    return net, told, _class_names(index, num_classes)


def load_decoder(source: Source, image_shape: Sequence[int] | None = None) -> tuple[DecoderNet, Told]:
    """Load an ``AutoencoderKL`` folder; return the network and what the folder tells.

    Args:
        source: the folder.
        image_shape: ``(C, H, W)`` to decode to; the size that it was trained on when left out.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        ValueError: a file that is damaged or does not fit, or sides that the decoder cannot give.
    """
    import_diffusers()
    vae = _model(source, "", "AutoencoderKL")
    config = cast(Any, vae).config
    factor = _factor(vae)
    sides = _sides(config.sample_size, source.path) if image_shape is None else tuple(image_shape)[1:]
    if len(sides) != 2 or any(side < 1 or side % factor for side in sides):
        raise ValueError(f"{source.path}: sides of images must be multiples of {factor}, got {sides}")
    latent_shape = (config.latent_channels, sides[0] // factor, sides[1] // factor)
    told = Told(latent_shape, _decoded(vae, latent_shape), labelled=False, value_range=(-1.0, 1.0))
    return DecoderNet(vae), told


def import_diffusers() -> Any:
    """Return the package diffusers, or say how to install it."""
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "folders of diffusers need the package: pip install torchaug_gen[diffusers]"
        ) from error
    return diffusers


def _model(source: Source, part: str, kind: str) -> nn.Module:
    """Build one of diffusers' models from its folder."""
    prefix = f"{part}/" if part else ""
    config = source.read_json(f"{prefix}config.json")
    described, path = source.path / f"{prefix}config.json", source.path / f"{prefix}{WEIGHTS}"
    if config.get("_class_name") != kind:
        raise ValueError(
            f"{described} must be of a {kind}, got {config.get('_class_name')!r}: "
            "for a pipeline, load the folder with model_index.json"
        )
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    check_arguments(config, where=str(described))
    if kind != "AutoencoderKL":
        _check_model(config, described)
    if not source.has(f"{prefix}{WEIGHTS}"):
        raise ValueError(
            f"{path} is missing; pickled or split weights are not read: save the model with safe_serialization=True"
        )
    tensors = read_safetensors(source.read(f"{prefix}{WEIGHTS}"), path)
    # Half precision saves space in the file; whether to run in it is asked elsewhere.
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    constructor = getattr(import_diffusers(), kind)

    def make() -> nn.Module:
        net: nn.Module = constructor.from_config(config)
        return net

    return construct(make, tensors, path).eval().requires_grad_(False)


def _check_model(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``ValueError`` for a denoiser that asks for what is not there, or for positions that fill the memory."""
    if (embedded := config.get("class_embed_type")) is not None:
        raise ValueError(f"{path}: class_embed_type must be null, which takes class indices, got {embedded!r}")
    sides = _sides(config.get("sample_size"), path)
    if math.prod(sides) > MAX_LATENT_VALUES:
        raise ValueError(f"{path}: sample_size must come to at most {MAX_LATENT_VALUES} positions, got {sides}")


def _scheduler(source: Source) -> Any:
    """Return a DDIM scheduler with the noise levels that the model was trained on."""
    config = source.read_json(_SCHEDULER)
    where = str(source.path / _SCHEDULER)
    check_arguments(config, where=where)
    if "beta_schedule" not in config:
        raise ValueError(f"{where} must describe a diffusion by its betas, got a {config.get('_class_name')!r}")
    check_count("num_train_timesteps", config.get("num_train_timesteps"), _MAX_TRAIN_STEPS)
    constructor = import_diffusers().DDIMScheduler
    known = inspect.signature(constructor.__init__).parameters
    try:
        return constructor(**{name: value for name, value in config.items() if name in known})
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _sides(sample_size: object, path: Path) -> tuple[int, int]:
    """Return height and width from a config that gives one number or two."""
    sides = tuple(sample_size) if isinstance(sample_size, list | tuple) else (sample_size, sample_size)
    if len(sides) != 2:
        raise ValueError(f"{path}: sample_size must be one integer or two, got {sample_size!r}")
    for side in sides:
        check_count(f"{path}: sample_size", side, MAX_SIDE)
    return cast(tuple[int, int], sides)


def _factor(vae: nn.Module) -> int:
    """Return how many pixels a latent is wide: each level of the decoder but the last doubles."""
    return int(2 ** (len(cast(Any, vae).config.block_out_channels) - 1))


def _decoded(vae: nn.Module, latent_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    factor = _factor(vae)
    return cast(Any, vae).config.out_channels, latent_shape[1] * factor, latent_shape[2] * factor


def _class_names(index: dict[str, Any], num_classes: int | None) -> tuple[str, ...] | None:
    names = index.get("id2label")
    if not isinstance(names, dict) or num_classes is None:
        return None
    listed = [names.get(str(label)) for label in range(num_classes)]
    known = tuple(name for name in listed if isinstance(name, str))
    return known if len(known) == num_classes else None
