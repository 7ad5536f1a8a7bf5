"""The networks of this package that a name in a config may stand for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from torchaug_gen.synthesis.external.weights import construct
from torchaug_gen.synthesis.gan.dcgan import DcganGeneratorNet
from torchaug_gen.synthesis.gan.network import GeneratorNet
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.sizes import check_arguments
from torchaug_gen.synthesis.vae.network import VaeNet
from torchaug_gen.synthesis.vae.synthesizer import VaeSynthesizer

# Each is built from image_shape, latent_dim, num_classes and what its property ``arguments`` returned when saved.
ARCHITECTURES: Mapping[str, type[nn.Module]] = {
    "DcganGeneratorNet": DcganGeneratorNet,
    "GeneratorNet": GeneratorNet,
    "VaeNet": VaeNet,
}


def build(
    architecture: object,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    image_shape: tuple[int, int, int],
    latent_dim: int | tuple[int, ...],
    num_classes: int | None,
) -> nn.Module:
    """Construct a network of :data:`ARCHITECTURES` around the tensors of a file, or raise ``ValueError``."""
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    check_arguments(arguments, where=f"{path}: arguments")
    constructor = cast(Any, ARCHITECTURES[architecture])

    def make() -> nn.Module:
        net: nn.Module = constructor(
            image_shape=image_shape, latent_dim=latent_dim, num_classes=num_classes, **arguments
        )
        return net

    return construct(make, tensors, path)


def architecture_of(net: nn.Module) -> str | None:
    """Return the name under which a network can be built again, or ``None`` for a foreign one."""
    name = type(net).__name__
    return name if ARCHITECTURES.get(name) is type(net) else None


def synthesizer_for(net: nn.Module) -> type[Any]:
    """Return the class of synthesizer that can do all that a network can."""
    return VaeSynthesizer if isinstance(net, VaeNet) else NetworkSynthesizer
