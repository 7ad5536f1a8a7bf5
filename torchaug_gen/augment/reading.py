"""Reading: what the user writes as a transform, as the steps of a program."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.choices import below
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
    return [step for steps in _read_all(listed, "", floating=False) for step in steps]


def _read_all(modules: Iterable[Any], path: str, *, floating: bool) -> Iterator[list[Step]]:
    """Yield the steps of each module; torchvision's fill values mean something else behind a conversion to floating."""
    from torchaug_gen.augment.torchvision_reader import floating_after

    for index, module in enumerate(modules):
        yield list(_steps(module, below(path, index), floating=floating))
        floating = floating_after(module, floating=floating)


def _steps(module: Any, path: str, *, floating: bool) -> Iterator[Step]:
    if isinstance(module, Mix):
        yield module
        return
    if hasattr(module, "_fused_steps"):
        yield from module._fused_steps
        return
    if not callable(module):
        raise TypeError(f"transform must be callable or a list of callables, got {type(module).__name__}")
    if type(module) is nn.Sequential:
        for steps in _read_all(module, path, floating=floating):
            yield from steps
        return
    # Subclasses too: the readers say whose they are.
    bases = (base.__module__.split(".")[0] for base in type(module).__mro__)
    library = next((base for base in bases if base in ("kornia", "torchvision")), None)
    if library == "kornia":
        from torchaug_gen.augment import kornia_reader

        yield from kornia_reader.read(module, path=path)
    elif library == "torchvision":
        from torchaug_gen.augment import torchvision_reader

        yield from torchvision_reader.read(module, path=path, floating=floating)
    else:
        name = getattr(module, "__name__", type(module).__name__)
        yield Opaque(module, f"{name} is neither Kornia's nor torchvision's, so what it does is not known")
