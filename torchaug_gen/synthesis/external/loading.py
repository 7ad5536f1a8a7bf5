"""Loading a synthesizer from a file: which format it is, what is known about its network, and what must be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch import nn

from torchaug_gen.synthesis.architectures import build, synthesizer_for
from torchaug_gen.synthesis.external import diffusion, exported, torchscript, weights
from torchaug_gen.synthesis.external.archives import archive_kind
from torchaug_gen.synthesis.external.source import Pins, Source
from torchaug_gen.synthesis.external.told import Told
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.runs import SUMS, load_run
from torchaug_gen.synthesis.sizes import USUAL_CHUNK, check_file_chunk, check_sizes

SIDECAR_FIELDS = ("architecture", "arguments", "latent_dim", "image_shape", "num_classes", "value_range", "chunk")
_SIZES = ("latent_dim", "image_shape", "num_classes", "value_range", "chunk", "classes")
_TORCH_SUFFIXES = (".pt2", ".pt", ".ts", ".pth", ".ckpt", ".tar", ".bin")


class LoadOptions(TypedDict, total=False):
    """What :meth:`Synthesizer.load` may be told of a file that does not say it; see there."""

    net: nn.Module
    key: str
    latent_dim: int | Sequence[int]
    image_shape: Sequence[int]
    num_classes: int
    value_range: tuple[float, float]
    chunk: int
    classes: Sequence[str]
    steps: int
    guidance: float


class Loaded(NamedTuple):
    """A network out of a file.

    Args:
        net: called with ``z``, or with ``z`` and labels.
        told: what the file tells of it.
        classes: the names of its classes.
        used: options beside the sizes that this format takes.
    """

    net: nn.Module
    told: Told = Told()
    classes: tuple[str, ...] | None = None
    used: tuple[str, ...] = ()


def load_any(
    path: Path, *, device: torch.device, trust: bool, sha256: Pins, options: Mapping[str, Any]
) -> NetworkSynthesizer:
    """Load a run folder, or a file or folder of another kind; see :meth:`Synthesizer.load`."""
    if not path.exists():
        raise FileNotFoundError(f"no run folder and no file at {path}")
    unknown = options.keys() - LoadOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"load has no option {', '.join(sorted(unknown))}; it has {', '.join(LoadOptions.__annotations__)}"
        )
    if path.is_dir() and not _is_diffusers(path):
        if other := [name for name in options if name != "chunk"]:
            raise ValueError(f"{path}: a run folder says all of itself, but load was given {', '.join(other)}")
        return load_run(path, device=device, trust=trust, sha256=sha256, chunk=options.get("chunk"))
    # Of a folder of diffusers only that of an AutoencoderKL has one file with weights, which a single pin then means.
    source = Source(path, sha256=sha256, main=diffusion.WEIGHTS if path.is_dir() else None)
    sidecar = _sidecar(source)
    said = sidecar | {name: value for name, value in options.items() if value is not None}
    loaded = _load_folder(source, said) if path.is_dir() else _load_file(source, said, trust)
    for name in set(said) - set(_SIZES) - set(loaded.used):
        raise ValueError(f"{path}: this format has no use for {name}")
    sizes = _merge(said, loaded, path)
    if "chunk" in sidecar and options.get("chunk") is None:
        _prefixed(path, check_file_chunk, sizes["chunk"], sizes["image_shape"])
    synthesizer: NetworkSynthesizer = synthesizer_for(loaded.net)(
        loaded.net, **{name: value for name, value in sizes.items() if name != "classes" and value is not None}
    )
    synthesizer.classes = sizes["classes"]
    return synthesizer.to(device)


def _is_diffusers(path: Path) -> bool:
    """Say whether a folder is one that diffusers wrote: our own run has another ``config.json``, and sums."""
    if (path / SUMS).exists():
        return False
    return (path / "model_index.json").is_file() or (path / diffusion.WEIGHTS).is_file()


def _load_folder(source: Source, said: Mapping[str, Any]) -> Loaded:
    if source.has("model_index.json"):
        net, told, classes = diffusion.load_pipeline(source, steps=said.get("steps"), guidance=said.get("guidance"))
        return Loaded(net, told, classes, ("steps", "guidance"))
    return Loaded(*diffusion.load_decoder(source, said.get("image_shape")))


def _load_file(source: Source, said: Mapping[str, Any], trust: bool) -> Loaded:
    suffix = source.path.suffix.lower()
    if suffix == ".onnx":
        from torchaug_gen.synthesis.external.onnx import load_onnx

        net = load_onnx(source)
        return Loaded(net, net.told())
    if suffix == ".safetensors":
        return _load_weights(weights.read_safetensors(source.read(), source.path), source, said)
    if suffix not in _TORCH_SUFFIXES:
        raise ValueError(
            f"{source.path} must be a run folder, a folder of diffusers, or a file that ends in .onnx, .safetensors, "
            f"{', '.join(_TORCH_SUFFIXES)}; for anything else, such as a pickled network, build the network yourself "
            "and pass it to Synthesizer.from_module"
        )
    content = source.read()
    kind = archive_kind(content, source.path)
    if kind == "state dict":
        tensors = weights.read_state_dict(content, source.path, key=said.get("key"))
        loaded = _load_weights(tensors, source, said)
        return loaded._replace(used=(*loaded.used, "key"))
    if kind == "TorchScript":
        require_trust(source.path, torchscript.RISK, trust)
        return Loaded(torchscript.load_torchscript(content, source.path))
    require_trust(source.path, exported.RISK, trust)
    program = exported.load_exported(content, source.path)
    return Loaded(program, exported.told_by(program, source.path))


def require_trust(path: Path, risk: str, trust: bool) -> None:
    """Raise ``ValueError`` unless the caller asked for what can execute code."""
    if not trust:
        raise ValueError(f"{path} holds {risk}: pass trust=True if you trust who wrote it")


def _load_weights(tensors: Mapping[str, torch.Tensor], source: Source, said: Mapping[str, Any]) -> Loaded:
    net = said.get("net")
    used = ("net", "architecture", "arguments")
    if net is not None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        return Loaded(weights.fill(net, tensors, source.path), used=used)
    if "architecture" not in said:
        raise ValueError(
            f"{source.path} holds weights alone: pass net=, the network that they belong to, or name one of this "
            f'package as "architecture" in {source.path.with_suffix(".json").name} beside it'
        )
    sizes = _merge(said, Loaded(nn.Identity(), Told(labelled=said.get("num_classes") is not None)), source.path)
    net = build(
        said["architecture"],
        said.get("arguments", {}),
        tensors,
        source.path,
        image_shape=sizes["image_shape"],
        latent_dim=sizes["latent_dim"],
        num_classes=sizes["num_classes"],
    )
    return Loaded(net, used=used)


def _sidecar(source: Source) -> dict[str, Any]:
    """Return what the JSON file beside a file says, such as ``faces.json`` beside ``faces.onnx``."""
    name = Path(source.main).with_suffix(".json").name
    if source.path.is_dir() or name == source.main or not source.has(name):
        return {}
    values = {key: value for key, value in source.read_json(name).items() if value is not None}
    known = (*SIDECAR_FIELDS, "classes", "key", "steps", "guidance")
    if unknown := values.keys() - {*known}:
        raise ValueError(f"{source.folder / name} may say {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _merge(said: Mapping[str, Any], loaded: Loaded, path: Path) -> dict[str, Any]:
    """Return the sizes from what the caller said and the file told, checked against each other and against bounds."""
    sizes: dict[str, Any] = {}
    told = loaded.told._asdict() | {"classes": loaded.classes}
    for name in _SIZES:
        value, known = _plain(said.get(name)), told.get(name)
        asked = (value,) if name == "latent_dim" and isinstance(value, int) else value
        if value is not None and known is not None and asked != known:
            raise ValueError(f"{path}: {name} must be {known}, as the file says, got {value}")
        sizes[name] = known if value is None else value
    if isinstance(sizes["latent_dim"], tuple) and len(sizes["latent_dim"]) == 1:
        (sizes["latent_dim"],) = sizes["latent_dim"]
    for name in ("latent_dim", "image_shape"):
        if sizes[name] is None:
            raise ValueError(
                f"{path} does not say {name}: pass {name}=, or write it into {path.with_suffix('.json').name} beside it"
            )
    labelled = loaded.told.labelled
    if labelled is not None and labelled != (sizes["num_classes"] is not None):
        takes = "labels: pass num_classes=" if labelled else "no labels: leave num_classes out"
        raise ValueError(f"{path}: the network takes {takes}")
    usual = {"value_range": (-1.0, 1.0), "chunk": USUAL_CHUNK}
    bounded = sizes | {name: value for name, value in usual.items() if sizes[name] is None}
    _prefixed(path, check_sizes, **bounded)
    return sizes


def _prefixed(path: Path, check: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Run a check, and name the file where it fails."""
    try:
        check(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plain(value: Any) -> Any:
    """Return lists as tuples, as sizes are compared and checked."""
    return tuple(value) if isinstance(value, list | torch.Size) else value
