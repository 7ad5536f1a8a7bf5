"""Checkpoints: everything that decides the steps to come, on disk as safetensors with JSON in its header."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torch.optim import Optimizer

from torchaug_gen.synthesis.digests import digest
from torchaug_gen.synthesis.runs import write_atomically
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Recipe
from torchaug_gen.synthesis.training.settings import TrainingSettings

VERSION = 2
FOLDER = "checkpoints"
# The newest may have been written while a collapse that shows later had begun.
KEPT = 2
# Settings that may differ between a training and its resumption.
FREE = frozenset({"steps", "device", "checkpoint_every", "grid_every", "max_rollbacks", "tensorboard", "max_data_gib"})
_HEADER = "torchaug_gen.checkpoint"


@dataclass(kw_only=True)
class TrainingState:
    """Where a training stands, apart from its networks and optimisers.

    Args:
        step: optimiser steps done.
        position: images taken from the endless chain of shuffles; it never goes back.
        learning_rate_scale: what every learning rate is multiplied by.
        rollbacks: how often the training went back.
        returned: whether the newest checkpoint is one that the training went back to.
        history_lines: lines of ``history.jsonl`` that belong to the training up to here.
        watch: what :class:`torchaug_gen.synthesis.training.watch.Watch` remembers.
    """

    step: int = 0
    position: int = 0
    learning_rate_scale: float = 1.0
    rollbacks: int = 0
    returned: bool = False
    history_lines: int = 0
    watch: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of a run, ``step-00001000.safetensors`` and the like; nothing in them is unpickled.

    Args:
        run: the run folder.
        recipe: whose networks and optimisers are written and restored.
        fingerprint: the settings and data that a training is resumed with only if they are the same, as JSON.
    """

    def __init__(self, run: Path, recipe: Recipe, fingerprint: Mapping[str, Any]) -> None:
        self.folder = run / FOLDER
        self._recipe = recipe
        self.fingerprint = json.loads(json.dumps(fingerprint))

    def paths(self) -> list[Path]:
        """Return the files, the oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint that appears whole or not at all, and remove all but the newest two."""
        tensors, optimizers = _tensors(self._recipe)
        header = {"version": VERSION, "state": asdict(state), "optimizers": optimizers, **self.fingerprint}
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{state.step:08d}.safetensors"
        write_atomically(path, bytes(save_safetensors(tensors, {_HEADER: json.dumps(header)})))
        self.prune(keep=KEPT)

    def load(self, path: Path) -> TrainingState:
        """Put a checkpoint's tensors into the recipe and return its state.

        Raises:
            ValueError: a file that is damaged or of another training; the first field that differs is named.
        """
        header, tensors = _read(path)
        try:
            self._check(header)
            state = TrainingState(**header["state"])
            _restore(self._recipe, tensors, header["optimizers"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"cannot go on from {path}: {error}") from error
        return state

    def prune(self, *, keep: int) -> None:
        """Remove all but the newest ``keep``."""
        for path in self.paths()[:-keep] if keep else self.paths():
            path.unlink(missing_ok=True)

    def _check(self, header: Mapping[str, Any]) -> None:
        if header.get("version") != VERSION:
            raise ValueError(f"version must be {VERSION}, got {header.get('version')!r}")
        for name, now in _flat(self.fingerprint):
            then = dict(_flat({key: header.get(key) for key in self.fingerprint})).get(name)
            if then != now:
                raise ValueError(f"{name} was {then!r} when the training began, and is {now!r} now")


def fingerprint(recipe: Recipe, images: TrainingImages, settings: TrainingSettings) -> dict[str, Any]:
    """Return what must be the same where a training is resumed, as JSON."""
    labels = () if images.labels is None else (images.labels,)
    return {
        "recipe": type(recipe).__name__,
        "settings": {name: value for name, value in asdict(settings).items() if name not in FREE},
        "images": {
            "count": len(images),
            "shape": list(images.image_shape),
            "num_classes": images.num_classes,
            "digest": digest(images.images, *labels),
        },
    }


def newest(run: Path) -> tuple[Path, TrainingState] | None:
    """Return a run folder's newest checkpoint and its state, or ``None`` where there is none.

    Raises:
        ValueError: a damaged file.
    """
    paths = sorted((run / FOLDER).glob("step-*.safetensors"))
    if not paths:
        return None
    header, _ = _read(paths[-1], tensors=False)
    try:
        return paths[-1], TrainingState(**header["state"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{paths[-1]} is a checkpoint of another version of this package: {error}") from error


def finite(recipe: Recipe) -> bool:
    """Whether every weight and buffer of the recipe's networks is finite."""
    values = [tensor for tensor in recipe.networks.state_dict().values() if tensor.is_floating_point()]
    return not values or bool(torch.stack([tensor.isfinite().all() for tensor in values]).all())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tensors(recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all tensors by name, and of the optimisers what is no tensor."""
    # clone: safetensors refuses tensors that share memory, such as tied weights.
    tensors = {f"networks.{name}": _plain(tensor) for name, tensor in recipe.networks.state_dict().items()}
    rest: dict[str, Any] = {}
    for name, optimizer in recipe.optimizers.items():
        values = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for index, moments in values["state"].items():
            for key, value in moments.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizers.{name}.{index}.{key}"] = _plain(value)
                else:
                    numbers.setdefault(str(index), {})[key] = value
        groups = [{k: v.item() if isinstance(v, Tensor) else v for k, v in g.items()} for g in values["param_groups"]]
        rest[name] = {"numbers": numbers, "groups": groups}
    return tensors, rest


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _restore(recipe: Recipe, tensors: dict[str, Tensor], optimizers: Mapping[str, Any]) -> None:
    own = recipe.networks.state_dict()
    weights = {name.removeprefix("networks."): t for name, t in tensors.items() if name.startswith("networks.")}
    for name in sorted(own.keys() | weights.keys()):
        have, found = (None if name not in where else tuple(where[name].shape) for where in (own, weights))
        if have != found:
            raise ValueError(f"the recipe has {name} of shape {have}, the file {found}")
    if set(optimizers) != set(recipe.optimizers):
        raise ValueError(f"the recipe has optimisers {sorted(recipe.optimizers)}, the file {sorted(optimizers)}")
    recipe.networks.load_state_dict(weights)
    for name, optimizer in recipe.optimizers.items():
        _restore_optimizer(name, optimizer, tensors, optimizers[name])


def _restore_optimizer(name: str, optimizer: Optimizer, tensors: dict[str, Tensor], rest: Mapping[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["numbers"].items()}
    prefix = f"optimizers.{name}."
    for full, tensor in tensors.items():
        if full.startswith(prefix):
            index, key = full.removeprefix(prefix).split(".", 1)
            parameter = parameters[int(index)]
            # In the memory format of the parameter, as the optimiser made it.
            laid_out = torch.empty_like(parameter, dtype=tensor.dtype, device="cpu")
            same = tensor.shape == parameter.shape
            state.setdefault(int(index), {})[key] = laid_out.copy_(tensor) if same else tensor
    groups = [
        # JSON knows no tuples.
        {key: tuple(value) if isinstance(own.get(key), tuple) else value for key, value in group.items()}
        for group, own in zip(rest["groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER)
            values = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is no checkpoint, or was cut short ({error}): delete it to go on from an older one"
        ) from error
    try:
        header = json.loads(text or "")
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no checkpoint of this package: its header has no {_HEADER!r}")
    return header, values
