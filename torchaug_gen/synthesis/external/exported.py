"""``.pt2`` files: networks that ``torch.export`` traced."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from torchaug_gen.synthesis.external.archives import check_archive
from torchaug_gen.synthesis.external.told import Told, tell

if TYPE_CHECKING:
    from torch.export import ExportedProgram

RISK = "a torch.export program, whose loader unpickles and can so execute code"


class ExportedNet(nn.Module):
    """A ``torch.export`` program as a module that can be put into evaluation mode and moved.

    Args:
        program: what ``torch.export`` made of a network in evaluation mode.

    Attributes:
        draws_noise: whether the program holds an operation that draws random numbers.
        latent_dtype: the type of its first floating input, ``None`` without one.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program
        self.network = program.module()
        self.draws_noise = _draws_noise(program)
        self.latent_dtype = _latent_dtype(program)

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


def _latent_dtype(program: ExportedProgram) -> torch.dtype | None:
    names = set(map(str, program.graph_signature.user_inputs))
    values = (node.meta.get("val") for node in program.graph.nodes if node.name in names)
    types = (value.dtype for value in values if isinstance(value, Tensor) and value.is_floating_point())
    return next(types, None)


def export(net: nn.Module, z: Tensor, labels: Tensor | None) -> ExportedProgram:
    """Trace a network in evaluation mode for inputs of exactly these shapes.

    Raises:
        TypeError: ``torch.export`` cannot trace it.
    """
    if isinstance(net, ExportedNet):
        return net.program
    inputs = (z,) if labels is None else (z, labels)
    try:
        with torch.no_grad():
            return torch.export.export(net.eval(), inputs)
    except Exception as error:
        raise TypeError(
            f"{type(net).__name__} is not a network of this package, and torch.export cannot trace it: {error}"
        ) from error


def load_exported(content: bytes, path: Path) -> ExportedNet:
    """Load a ``.pt2`` file that the caller trusts.

    Raises:
        ValueError: an archive that is damaged or a bomb, or no program.
    """
    check_archive(content, path)
    try:
        return ExportedNet(torch.export.load(io.BytesIO(content)))
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as a torch.export program: {error}") from error


def told_by(net: ExportedNet, path: Path) -> Told:
    """Return what a program says of its inputs and its output."""
    names = net.program.graph_signature.user_inputs
    nodes = {node.name: node for node in net.program.graph.nodes}
    inputs = [(str(name), *_described(nodes[str(name)].meta.get("val"))) for name in names if str(name) in nodes]
    outputs = [
        _described(nodes[str(name)].meta.get("val"))[0]
        for name in net.program.graph_signature.user_outputs
        if str(name) in nodes
    ]
    return tell(inputs, outputs, path)


def _described(value: Any) -> tuple[tuple[int | None, ...], bool]:
    """Return the shape, with ``None`` where it is free, and whether the tensor is floating."""
    if not isinstance(value, Tensor):
        return (), False
    # A free size is a symbol, which is no int.
    return tuple(size if type(size) is int else None for size in value.shape), value.is_floating_point()


def _draws_noise(program: ExportedProgram) -> bool:
    return any(
        torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
    )


def _device(net: nn.Module) -> torch.device:
    tensor = next(iter((*net.parameters(), *net.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device
