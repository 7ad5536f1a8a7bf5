"""Run folders: a synthesizer on disk, in files that can be checked before they are believed."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.vae import VaeNet

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FORMAT = "torchaug_gen.run"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "network.pt2"
SUMS = "SHA256SUMS"
FOREIGN = "torch.export"

# The networks that a name in a config may stand for. Each is built from the sizes of the config and the
# arguments that its property ``arguments`` returned when it was saved.
ARCHITECTURES: Mapping[str, type[VaeNet]] = {"VaeNet": VaeNet}

_MAX_SIDE = 4096
_MAX_LATENT_DIM = 65536
_MAX_CLASSES = 1 << 20
_MAX_CHUNK = 65536


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What ``config.json`` says.

    Args:
        architecture: a key of :data:`ARCHITECTURES`, or ``"torch.export"`` for a foreign network.
        arguments: the architecture's own constructor arguments.
        latent_dim: width of the latent vectors, 1..65536.
        image_shape: ``(C, H, W)``, each 1..4096.
        num_classes: number of classes, 1..2²⁰, or ``None``.
        value_range: the network's values for black and white.
        chunk: rows the network runs on at a time, 1..65536.
        classes: names of the classes in the order of their labels, where known.
        package_version: the package that wrote the run.

    Raises:
        ValueError: a field of the wrong type or out of bounds.
    """

    architecture: str
    arguments: Mapping[str, int]
    latent_dim: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    value_range: tuple[float, float]
    chunk: int
    classes: tuple[str, ...] | None
    package_version: str

    def __post_init__(self) -> None:
        _check_count("latent_dim", self.latent_dim, _MAX_LATENT_DIM)
        _check_count("chunk", self.chunk, _MAX_CHUNK)
        if self.num_classes is not None:
            _check_count("num_classes", self.num_classes, _MAX_CLASSES)
        if not _is_tuple(self.image_shape, 3):
            raise ValueError(f"image_shape must be three integers, got {self.image_shape!r}")
        for size in self.image_shape:
            _check_count("each size of image_shape", size, _MAX_SIDE)
        if not _is_tuple(self.value_range, 2) or not all(
            type(bound) in (int, float) and math.isfinite(bound) for bound in self.value_range
        ):
            raise ValueError(f"value_range must be two finite numbers, got {self.value_range!r}")
        if not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range must be (black, white) with black < white, got {self.value_range}")
        if self.architecture not in (*ARCHITECTURES, FOREIGN):
            known = ", ".join((*ARCHITECTURES, FOREIGN))
            raise ValueError(f"architecture must be one of {known}, got {self.architecture!r}")
        if not isinstance(self.arguments, dict):
            raise ValueError(f"arguments must be an object, got {self.arguments!r}")
        if self.classes is not None and not (
            _is_tuple(self.classes, self.num_classes) and all(isinstance(name, str) for name in self.classes)
        ):
            raise ValueError(f"classes must be num_classes={self.num_classes} names, got {self.classes!r}")
        if not isinstance(self.package_version, str):
            raise ValueError(f"package_version must be a string, got {self.package_version!r}")

    @property
    def network_file(self) -> str:
        """Name of the file with the network."""
        return PROGRAM if self.architecture == FOREIGN else WEIGHTS

    def to_json(self) -> bytes:
        """Return the text of ``config.json``."""
        values = {"format": FORMAT, "version": VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        return (json.dumps(values, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse the text of ``config.json``, or raise ``ValueError``."""
        try:
            values = json.loads(text)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f'not a run of this package: "format" must be "{FORMAT}"')
        if (written := values.pop("version", None)) != VERSION:
            raise ValueError(f"version must be {VERSION}, got {written!r}: load it with the package that wrote it")
        if set(values) != (expected := {field.name for field in fields(cls)}):
            raise ValueError(f"the fields must be {sorted(expected)}, got {sorted(values)}")
        fixed: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**fixed)


def save_run(synthesizer: NetworkSynthesizer, path: Path) -> None:
    """Write a run folder, or overwrite one.

    A network of :data:`ARCHITECTURES` becomes ``weights.safetensors``, any other a ``torch.export`` program
    ``network.pt2`` for exactly ``chunk`` rows; beside it lie ``config.json`` and ``SHA256SUMS``, which
    ``sha256sum -c`` can check. Each file appears whole or not at all, the sums last, so that a folder whose
    writing was cut short does not load.

    Raises:
        TypeError: a foreign network that ``torch.export`` cannot trace; nothing is written.
    """
    net = synthesizer.net
    architecture = type(net).__name__
    known = ARCHITECTURES.get(architecture) is type(net)
    config = RunConfig(
        architecture=architecture if known else FOREIGN,
        arguments=dict(net.arguments) if isinstance(net, VaeNet) and known else {},
        latent_dim=synthesizer.latent_dim,
        image_shape=synthesizer.image_shape,
        num_classes=synthesizer.num_classes,
        value_range=synthesizer.value_range,
        chunk=synthesizer.chunk,
        classes=synthesizer.classes,
        package_version=version("torchaug_gen"),
    )
    network = _weights(net) if known else _exported(synthesizer)
    files = {config.network_file: network, CONFIG: config.to_json()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    path.mkdir(parents=True, exist_ok=True)
    for name, content in (files | {SUMS: sums.encode()}).items():
        write_atomically(path / name, content)
    (path / (WEIGHTS if config.architecture == FOREIGN else PROGRAM)).unlink(missing_ok=True)


def load_run(path: Path, *, device: torch.device, trust: bool = False, sha256: str | None = None) -> NetworkSynthesizer:
    """Load a run folder; see :meth:`Synthesizer.load`."""
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    sums = _read_sums(path)
    config = _read_config(path, sums)
    if config.architecture == FOREIGN and not trust:
        raise ValueError(
            f"{path} holds a foreign network as a torch.export program, whose loader unpickles and can so execute "
            "code: pass trust=True if you trust who wrote it"
        )
    content = _read_checked(path, config.network_file, sums)
    if sha256 is not None and sha256.lower() != (found := hashlib.sha256(content).hexdigest()):
        raise ValueError(f"{path / config.network_file} must have the SHA-256 {sha256}, got {found}")
    load = _load_program if config.architecture == FOREIGN else _load_weights
    try:
        net = load(content, config)
    except Exception as error:
        raise ValueError(f"{path / config.network_file} cannot be loaded: {error}") from error
    synthesizer = NetworkSynthesizer(
        net,
        latent_dim=config.latent_dim,
        image_shape=config.image_shape,
        num_classes=config.num_classes,
        value_range=config.value_range,
        chunk=config.chunk,
    )
    synthesizer.classes = config.classes
    return synthesizer.to(device)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class ExportedNet(nn.Module):
    """A ``torch.export`` program as a module that can be put into evaluation mode and moved.

    Args:
        program: what ``torch.export`` made of a network in evaluation mode.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program
        self.network = program.module()

    def forward(self, *inputs: Tensor) -> Any:
        """Run the program."""
        return self.network(*inputs)

    def train(self, mode: bool = True) -> Self:
        """Refuse training: the program was traced in evaluation mode."""
        if mode:
            raise TypeError("an exported network can only draw images: train the network it was exported from")
        self.training = False
        return self

    def to(self, device: torch.device | str) -> Self:  # type: ignore[override]
        """Move the program, with the devices that are written into its operations."""
        device = torch.device(device)
        if device != _device(self.network):
            from torch.export.passes import move_to_device_pass

            self.program = move_to_device_pass(self.program, device)
            self.network = self.program.module()
        return self


def _device(net: nn.Module) -> torch.device:
    tensor = next(iter((*net.parameters(), *net.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _weights(net: nn.Module) -> bytes:
    # On loading every tensor is contiguous; what runs channels last says so itself.
    tensors = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    return bytes(save_safetensors(tensors))


def _exported(synthesizer: NetworkSynthesizer) -> bytes:
    """Return the network as the bytes of a ``.pt2`` file."""
    net = synthesizer.net.eval()
    inputs = [torch.zeros(synthesizer.chunk, synthesizer.latent_dim, device=synthesizer.device)]
    if synthesizer.num_classes is not None:
        inputs.append(torch.zeros(synthesizer.chunk, dtype=torch.int64, device=synthesizer.device))
    buffer = io.BytesIO()
    try:
        if isinstance(net, ExportedNet):
            program = net.program
        else:
            with torch.no_grad():
                program = torch.export.export(net, tuple(inputs))
        torch.export.save(program, buffer)
    except Exception as error:
        raise TypeError(
            f"{type(net).__name__} is not a network of this package, and torch.export cannot trace it: {error}"
        ) from error
    return buffer.getvalue()


def _read_sums(path: Path) -> dict[str, str]:
    sums = {}
    for line in _read(path, SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    return sums


def _read_config(path: Path, sums: Mapping[str, str]) -> RunConfig:
    content = _read_checked(path, CONFIG, sums)
    try:
        return RunConfig.from_json(content)
    except ValueError as error:
        raise ValueError(f"{path / CONFIG}: {error}") from error


def _read_checked(path: Path, name: str, sums: Mapping[str, str]) -> bytes:
    """Return a file's content once its hash is that of ``SHA256SUMS``; later use sees the bytes that were checked."""
    content = _read(path, name)
    if sums.get(name) != hashlib.sha256(content).hexdigest():
        raise ValueError(
            f"{path / name} is not the file that {SUMS} describes: it was altered or cut short; "
            "copy the run again or save it anew"
        )
    return content


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path / name} is missing: copy the whole run folder, or save it anew") from None


def _load_weights(content: bytes, config: RunConfig) -> nn.Module:
    """Build the network without memory, compare it with the file, and only then give it the file's tensors."""
    try:
        with torch.device("meta"):
            net = ARCHITECTURES[config.architecture](
                image_shape=config.image_shape,
                latent_dim=config.latent_dim,
                num_classes=config.num_classes,
                **config.arguments,
            )
    except TypeError as error:
        raise ValueError(f"wrong arguments for {config.architecture}: {error}") from error
    tensors = load_safetensors(content)
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in net.state_dict().items()}
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{config.architecture} has {name}: {expected.get(name)}, the file {found.get(name)}")
    net.load_state_dict(tensors, assign=True)
    return net


def _load_program(content: bytes, config: RunConfig) -> nn.Module:
    return ExportedNet(torch.export.load(io.BytesIO(content)))


def _is_tuple(value: object, length: int | None) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _check_count(name: str, value: object, limit: int) -> None:
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{name} must be an integer in 1..{limit}, got {value!r}")
