"""Reading: what the user writes as a transform, as the steps of a program."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.mix import Mix
from torchaug_gen.augment.operation import Opaque, Operation

Step = Operation | AugMix | Mix | Opaque


def read(transform: Any) -> list[Step]:
    """Return the steps of a transform.

    Args:
        transform: ``None``, one transform, or a list of them: Kornia modules and containers, torchvision transforms,
            :class:`torchaug_gen.MixUp` and its kin, fused transforms, ``nn.Sequential``, callables on images.

    Raises:
        TypeError: something that is neither callable nor a list of callables.
    """
    if transform is None:
        return []
    listed = list(transform) if isinstance(transform, list | tuple) else [transform]
    return [step for index, module in enumerate(listed) for step in _steps(module, str(index))]


def _steps(module: Any, path: str) -> Iterator[Step]:
    if isinstance(module, Mix):
        yield module
        return
    if hasattr(module, "_fused_steps"):
        yield from module._fused_steps
        return
    if not callable(module):
        raise TypeError(f"transform must be callable or a list of callables, got {type(module).__name__}")
    if type(module) is nn.Sequential:
        for index, child in enumerate(module):
            yield from _steps(child, f"{path}.{index}")
        return
    library = type(module).__module__.split(".")[0]
    if library == "kornia":
        from torchaug_gen.augment import kornia_reader

        yield from kornia_reader.read(module, path=path)
    elif library == "torchvision":
        from torchaug_gen.augment import torchvision_reader

        yield from torchvision_reader.read(module, path=path)
    else:
        name = getattr(module, "__name__", type(module).__name__)
        yield Opaque(module, f"{name} is neither Kornia's nor torchvision's, so what it does is not known")
