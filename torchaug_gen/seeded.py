"""A context in which code that knows no seed draws its random numbers from one, without touching global state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Seeded(TorchDispatchMode):
    """Give every random PyTorch operation of this thread a private generator.

    Kornia, torchvision and most networks draw from PyTorch's global generators and take no seed. Forking and
    seeding those is not safe beside a training thread, whose dropout would draw from the seeded state. A dispatch
    mode is local to its thread: within ``with Seeded(seed):`` operations that would read the global generator
    of a device read one that is seeded with ``seed`` instead. Operations that are handed a generator keep it.
    Python's and NumPy's own generators are outside its reach.

    Args:
        seed: 0 ≤ seed < 2⁶³.

    Raises:
        RuntimeError: within the context, where an attention or recurrent kernel drops out with a generator of
            its own.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operations arrive whole, and would draw where this mode cannot see it.
        if torch.is_inference_mode_enabled():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if torch.Tag.nondeterministic_seeded not in func.tags or _has_generator(args, kwargs):
            return func(*args, **kwargs)
        # "generator=None" asks for the global one as well.
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        if "generator" in _argument_names(func):
            return func(*args, **kwargs, generator=self._generator(_device(args, kwargs)))
        name = func.overloadpacket.__name__
        if name in _FACTORIES:
            factory = getattr(func.overloadpacket, _FACTORIES[name][func._overloadname])
            return factory(*args, **kwargs, generator=self._generator(_device(args, kwargs)))
        if name in _FILLS:
            return _FILLS[name](self._generator(_device(args, kwargs)), *args, **kwargs)
        if self._dropout_is_on(func, args, kwargs):
            raise RuntimeError(
                f"{func} draws from PyTorch's global generator and takes no other, so it cannot be reproduced from "
                "a seed; set its dropout to 0, or draw with torch.rand, torch.randn, torch.randint or bernoulli"
            )
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]

    @staticmethod
    def _dropout_is_on(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Attention and recurrent kernels are tagged as random, but only draw where they drop out."""
        bound = dict(zip(_argument_names(func), args, strict=False)) | kwargs
        return any(bound.get(name) for name in ("dropout_p", "dropout")) and bound.get("train", True)


# Factories whose overload with a generator has another name.
_FACTORIES = {
    "rand": {"default": "generator", "names": "generator_with_names"},
    "randn": {"default": "generator", "names": "generator_with_names"},
    "randint": {"default": "generator", "low": "low_generator"},
    "randperm": {"default": "generator"},
}


def _rand_like(generator: torch.Generator, x: Tensor, **options: Any) -> Tensor:
    return torch.empty_like(x, **options).uniform_(generator=generator)


def _randn_like(generator: torch.Generator, x: Tensor, **options: Any) -> Tensor:
    return torch.empty_like(x, **options).normal_(generator=generator)


def _randint_like(generator: torch.Generator, x: Tensor, *bounds: int | Tensor, **options: Any) -> Tensor:
    low, high = (0, *bounds)[-2:]
    return torch.empty_like(x, **options).random_(int(low), int(high), generator=generator)


def _native_dropout(
    generator: torch.Generator, x: Tensor, p: float, train: bool | None = True
) -> tuple[Tensor, Tensor]:
    keep = 1.0 - p if train else 1.0
    kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(keep, generator=generator)
    return x * kept / max(keep, torch.finfo(x.dtype).tiny), kept


# Operations that are another one behind an empty tensor.
_FILLS: dict[str, Callable[..., Any]] = {
    "rand_like": _rand_like,
    "randn_like": _randn_like,
    "randint_like": _randint_like,
    "native_dropout": _native_dropout,
}


def _argument_names(func: Any) -> list[str]:
    return [argument.name for argument in func._schema.arguments]


def _has_generator(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return any(isinstance(value, torch.Generator) for value in (*args, kwargs.get("generator")))


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Return the device, with its index, whose generator an operation would use."""
    tensors = [value for value in args if isinstance(value, Tensor)]
    device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device
