"""Run folders: a synthesizer on disk, in files that can be checked before they are believed."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from torchaug_gen.synthesis.architectures import ARCHITECTURES, architecture_of, build, synthesizer_for
from torchaug_gen.synthesis.external.exported import RISK, export, load_exported
from torchaug_gen.synthesis.external.source import MAX_BYTES, MAX_JSON_BYTES, Pins, Source
from torchaug_gen.synthesis.external.weights import read_safetensors
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.sizes import check_arguments, check_file_chunk, check_sizes

FORMAT = "torchaug_gen.run"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "network.pt2"
SUMS = "SHA256SUMS"
FOREIGN = "torch.export"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What ``config.json`` says.

    Args:
        architecture: a key of :data:`ARCHITECTURES`, or ``"torch.export"`` for a foreign network.
        arguments: the architecture's own constructor arguments.
        latent_dim: width of the latent vectors, 1..65536, or their shape.
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
    arguments: Mapping[str, Any]
    latent_dim: int | tuple[int, ...]
    image_shape: tuple[int, int, int]
    num_classes: int | None
    value_range: tuple[float, float]
    chunk: int
    classes: tuple[str, ...] | None
    package_version: str

    def __post_init__(self) -> None:
        check_sizes(
            latent_dim=self.latent_dim,
            image_shape=self.image_shape,
            num_classes=self.num_classes,
            value_range=self.value_range,
            chunk=self.chunk,
            classes=self.classes,
        )
        if not isinstance(self.architecture, str) or self.architecture not in (*ARCHITECTURES, FOREIGN):
            known = ", ".join((*ARCHITECTURES, FOREIGN))
            raise ValueError(f"architecture must be one of {known}, got {self.architecture!r}")
        check_arguments(self.arguments)
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
        except (ValueError, RecursionError) as error:
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
    architecture = architecture_of(net)
    shape = synthesizer.latent_shape
    config = RunConfig(
        architecture=architecture or FOREIGN,
        arguments={} if architecture is None else dict(cast(Any, net).arguments),
        latent_dim=shape[0] if len(shape) == 1 else shape,
        image_shape=synthesizer.image_shape,
        num_classes=synthesizer.num_classes,
        value_range=synthesizer.value_range,
        chunk=synthesizer.chunk,
        classes=synthesizer.classes,
        package_version=version("torchaug_gen"),
    )
    network = _exported(synthesizer) if architecture is None else _weights(net)
    files = {config.network_file: network, CONFIG: config.to_json()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    path.mkdir(parents=True, exist_ok=True)
    for name, content in (files | {SUMS: sums.encode()}).items():
        write_atomically(path / name, content)
    (path / (WEIGHTS if config.architecture == FOREIGN else PROGRAM)).unlink(missing_ok=True)


def load_run(
    path: Path, *, device: torch.device, trust: bool = False, sha256: Pins = None, chunk: int | None = None
) -> NetworkSynthesizer:
    """Load a run folder, to be run on ``chunk`` rows instead of its own; see :meth:`Synthesizer.load`."""
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder at {path}")
    source = Source(path, sha256=sha256)
    if not source.has(SUMS) and (step := _last_step(path)) is not None:
        raise ValueError(
            f"{path} has no synthesizer yet, its training stopped after step {step}: torchaug-gen train ... --resume, "
            "or resume=True, goes on"
        )
    sums = _read_sums(source)
    config = _read_config(source, sums, chunk)
    if config.architecture == FOREIGN and not trust:
        raise ValueError(f"{path} holds a foreign network as {RISK}: pass trust=True if you trust who wrote it")
    source.main = config.network_file
    file = path / config.network_file
    content = _read_checked(source, config.network_file, sums)
    if config.architecture == FOREIGN:
        net: nn.Module = load_exported(content, file)
    else:
        net = build(
            config.architecture,
            config.arguments,
            read_safetensors(content, file),
            file,
            image_shape=config.image_shape,
            latent_dim=config.latent_dim,
            num_classes=config.num_classes,
        )
    synthesizer: NetworkSynthesizer = synthesizer_for(net)(
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


def _weights(net: nn.Module) -> bytes:
    # On loading every tensor is contiguous; what runs channels last says so itself.
    tensors = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    return bytes(save_safetensors(tensors))


def _exported(synthesizer: NetworkSynthesizer) -> bytes:
    """Return the network as the bytes of a ``.pt2`` file."""
    z, labels = synthesizer.zeros()
    program = export(synthesizer.net, z, labels)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _last_step(path: Path) -> int | None:
    """Return how far a training has come, by the name of its newest checkpoint, or ``None`` where there is none."""
    names = [file.stem.removeprefix("step-") for file in path.glob("checkpoints/step-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def _read_sums(source: Source) -> dict[str, str]:
    sums = {}
    for line in _read(source, SUMS, MAX_JSON_BYTES).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sums[name] = digest
    return sums


def _read_config(source: Source, sums: Mapping[str, str], chunk: int | None) -> RunConfig:
    content = _read_checked(source, CONFIG, sums, MAX_JSON_BYTES)
    try:
        config = RunConfig.from_json(content)
        if config.architecture == FOREIGN:
            # Traced for so many rows.
            if chunk not in (None, config.chunk):
                raise ValueError(f"chunk must be {config.chunk}, for which the network was exported, got {chunk}")
        elif chunk is None:
            check_file_chunk(config.chunk, config.image_shape)
        return config if chunk is None else replace(config, chunk=chunk)
    except ValueError as error:
        raise ValueError(f"{source.path / CONFIG}: {error}") from error


def _read_checked(source: Source, name: str, sums: Mapping[str, str], limit: int = MAX_BYTES) -> bytes:
    """Return a file's content once its hash is that of ``SHA256SUMS``; later use sees the bytes that were checked."""
    content = _read(source, name, limit)
    if sums.get(name) != hashlib.sha256(content).hexdigest():
        raise ValueError(
            f"{source.path / name} is not the file that {SUMS} describes: it was altered or cut short; "
            "copy the run again or save it anew"
        )
    return content


def _read(source: Source, name: str, limit: int) -> bytes:
    try:
        return source.read(name, limit=limit, describes=name in (SUMS, CONFIG))
    except FileNotFoundError:
        raise ValueError(f"{source.path / name} is missing: copy the whole run folder, or save it anew") from None
