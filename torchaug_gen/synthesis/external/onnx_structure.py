"""What an ONNX file would make a runtime do, read from its structure before any runtime sees it.

Field numbers are those of onnx.proto, which the ONNX project keeps for good.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from torchaug_gen.synthesis.external.protobuf import WireError, fields, integers, message, text

# Dense values that the file's tensors may come to: 2 GiB in float32, the most that a file of ONNX can hold itself.
_MAX_VALUES = 1 << 29
_MAX_NODES = 100_000
_MAX_NESTING = 8

# Operations whose numbers come from a generator that no seed of ours reaches.
_NOISY = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}

_MODEL_GRAPH, _MODEL_FUNCTION, _MODEL_TRAINING = 7, 25, 20
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_OPERATION = 5, 4
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_TENSOR_DIMS, _TENSOR_EXTERNAL = 1, 13
_SPARSE_DIMS = 3


@dataclass
class Structure:
    """What the walk through a file found.

    Args:
        path: the file, for errors.
        external: names of the files beside it that hold tensors.
        values: how many values all tensors come to.
        nodes: how many operations there are.
    """

    path: Path
    external: set[str] = field(default_factory=set)
    values: int = 0
    nodes: int = 0

    def graph(self, content: memoryview, nesting: int = 0) -> None:
        """Walk a GraphProto."""
        for number, value in fields(content):
            if number == _GRAPH_NODE:
                self.node(message(value), nesting)
            elif number == _GRAPH_INITIALIZER:
                self.tensor(message(value))
            elif number == _GRAPH_SPARSE:
                self.sparse(message(value))

    def function(self, content: memoryview) -> None:
        """Walk a FunctionProto."""
        for number, value in fields(content):
            if number == _FUNCTION_NODE:
                self.node(message(value), 0)
            elif number == _FUNCTION_ATTRIBUTE:
                self.attribute(message(value), 0)

    def node(self, content: memoryview, nesting: int) -> None:
        """Walk a NodeProto and the graphs within it."""
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise ValueError(f"{self.path} must have at most {_MAX_NODES} operations, got more: refused")
        if nesting > _MAX_NESTING:
            raise ValueError(f"{self.path} must nest its graphs at most {_MAX_NESTING} deep, got more: refused")
        for number, value in fields(content):
            if number == _NODE_ATTRIBUTE:
                self.attribute(message(value), nesting)
            elif number == _NODE_OPERATION and (operation := text(value)) in _NOISY:
                raise ValueError(
                    f"{self.path} draws noise of its own ({operation}), which no seed reaches: export the network "
                    "with the noise as part of z"
                )

    def attribute(self, content: memoryview, nesting: int) -> None:
        """Walk an AttributeProto."""
        for number, value in fields(content):
            if number in _ATTRIBUTE_TENSORS:
                self.tensor(message(value))
            elif number in _ATTRIBUTE_GRAPHS:
                self.graph(message(value), nesting + 1)
            elif number in _ATTRIBUTE_SPARSE:
                self.sparse(message(value))

    def tensor(self, content: memoryview) -> None:
        """Count a TensorProto and note the file that it is in."""
        dims = []
        for number, value in fields(content):
            if number == _TENSOR_DIMS:
                dims += integers(value)
            elif number == _TENSOR_EXTERNAL:
                self.entry(message(value))
        self.count(dims)

    def sparse(self, content: memoryview) -> None:
        """Count a SparseTensorProto, which the runtime makes dense."""
        self.count([dim for number, value in fields(content) if number == _SPARSE_DIMS for dim in integers(value)])

    def entry(self, content: memoryview) -> None:
        """Note the location in a StringStringEntryProto."""
        pair = {number: text(value) for number, value in fields(content)}
        if pair.get(1) == "location":
            self.external.add(pair.get(2, ""))

    def count(self, dims: list[int]) -> None:
        """Add a tensor's size, or raise where all come to too much."""
        if min(dims, default=0) < 0:
            raise ValueError(f"{self.path} holds a tensor of shape {dims}: refused")
        self.values += math.prod(dims)
        if self.values > _MAX_VALUES:
            raise ValueError(
                f"{self.path} must hold at most {_MAX_VALUES:,} values, but its tensors come to {self.values:,}"
            )


def read_structure(content: bytes, path: Path) -> Structure:
    """Walk an ONNX file.

    Raises:
        ValueError: a file that is damaged or no ONNX, holds more than 2²⁹ values or 100,000 operations, or draws
            random numbers.
    """
    structure, graphs = Structure(path), 0
    try:
        for number, value in fields(memoryview(content)):
            if number == _MODEL_GRAPH:
                graphs += 1
                structure.graph(message(value))
            elif number == _MODEL_FUNCTION:
                structure.function(message(value))
            elif number == _MODEL_TRAINING:
                raise ValueError(f"{path} holds a training graph: export the network for inference")
    except WireError as error:
        raise ValueError(f"{path} is no ONNX file, or it was cut short: {error}") from None
    if graphs != 1:
        raise ValueError(f"{path} is no ONNX file, or it was cut short: it must hold one graph, got {graphs}")
    return structure
