"""ONNX files, run by onnxruntime: no pickle, no code, and bounded memory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from torchaug_gen.synthesis.external.onnx_structure import read_structure
from torchaug_gen.synthesis.external.source import Source
from torchaug_gen.synthesis.external.told import Told, tell

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# The most that the format itself allows for one file.
_MAX_FILE_BYTES = 2 << 30
# What all running sessions together may allocate for their activations.
_MAX_ARENA_BYTES = 4 << 30
_FLOATING = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class OnnxNet(nn.Module):
    """An ONNX network as a module; it runs on the CPU.

    Args:
        content: the file.
        external: content of the files beside it that hold tensors, by name.
        path: the file's name, for errors.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: what the runtime refuses, or inputs and outputs that are not those of a generator.
    """

    draws_noise = False

    def __init__(self, content: bytes, external: dict[str, bytes], path: Path) -> None:
        super().__init__()
        self.content, self.external, self.path = content, external, path
        self.session = _session(content, external, path)
        types = _FLOATING | _INTEGERS
        for value in self.session.get_inputs():
            if value.type not in types:
                raise ValueError(f"{path}: input {value.name} must be of {', '.join(types)}, got {value.type}")
        self.inputs = [(value.name, types[value.type]) for value in self.session.get_inputs()]
        # z first, whatever the file's order.
        self.inputs.sort(key=lambda item: item[1] in _INTEGERS.values())
        self.output = self.session.get_outputs()[0].name

    def told(self) -> Told:
        """Return what the file tells of its inputs and its output."""
        inputs = [(value.name, _shape(value.shape), value.type in _FLOATING) for value in self.session.get_inputs()]
        return tell(inputs, [_shape(value.shape) for value in self.session.get_outputs()], self.path)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Run the network on ``z``, or on ``z`` and labels, and return its images.

        Raises:
            ValueError: the runtime fails, such as for more memory than it is allowed.
        """
        if len(tensors) != len(self.inputs):
            raise ValueError(f"{self.path} takes {len(self.inputs)} inputs, got {len(tensors)}")
        pairs = zip(self.inputs, tensors, strict=True)
        feed = {name: tensor.detach().cpu().numpy().astype(dtype, copy=False) for (name, dtype), tensor in pairs}
        try:
            (images,) = self.session.run([self.output], feed)
        except Exception as error:
            raise ValueError(f"{self.path} cannot be run: {error}") from error
        return torch.from_numpy(images)

    def to(self, device: torch.device | str) -> Self:  # type: ignore[override]
        """Refuse any device but the CPU."""
        if torch.device(device).type != "cpu":
            raise ValueError(f"{self.path} is run by onnxruntime on the CPU, got device {device}")
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A session cannot be copied to another process, but it can be made again there.
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.session = _session(self.content, self.external, self.path)


def load_onnx(source: Source) -> OnnxNet:
    """Load an ONNX file after a look at its structure.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: a file that is damaged, too large or unpacks to too much, draws random numbers, or names files
            outside its folder.
    """
    content = source.read(limit=_MAX_FILE_BYTES)
    structure = read_structure(content, source.path)
    external: dict[str, bytes] = {}
    for name in sorted(structure.external):
        left = _MAX_FILE_BYTES - sum(map(len, external.values()))
        external[name] = source.read(name, limit=left)
    return OnnxNet(content, external, source.path)


def _session(content: bytes, external: dict[str, bytes], path: Path) -> InferenceSession:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX files are run by onnxruntime: pip install torchaug_gen[onnx]") from error
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    if external:
        names = [*external]
        options.add_external_initializers_from_files_in_memory(
            names, [external[name] for name in names], [len(external[name]) for name in names]
        )
    try:
        # Folding constants allocates outside the arena: three nodes of a file of 200 bytes could ask for terabytes.
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
    except Exception as error:
        raise ValueError(f"{path} is refused by onnxruntime: {error}") from error


@lru_cache(maxsize=1)
def _bound_memory() -> None:
    """Limit what sessions allocate when they run; without, a short file could fill the machine."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # "Same as requested", for an arena that doubles itself would waste half of the limit.
    settings = onnxruntime.OrtArenaCfg({"max_mem": _MAX_ARENA_BYTES, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, settings)


def _shape(shape: list[int | str | None]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
