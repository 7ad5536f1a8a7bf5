"""The guard that keeps synthetic items out of evaluations."""

from enum import Enum
from typing import Any

import torch

from torchaug_gen.wrapped import unwrapped

_EVALUATION_SPLITS = {"val", "valid", "validation", "test"}


def check_not_evaluating(loader: Any) -> None:
    """Raise where a pass with synthetic items looks like an evaluation.

    Raises:
        ValueError: gradients are off, or the loader's data set, or one inside it, has ``train`` false or a ``split``
            that is for validation or test.
    """
    advice = "but the loader mixes in synthetic items; use the inner loader to evaluate, or pass allow_eval=True"
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise ValueError(f"gradients are off, as in an evaluation, {advice}")
    for dataset in unwrapped(getattr(loader, "dataset", None)):
        split = getattr(dataset, "split", None)
        # Not only of a str: Hugging Face's NamedSplit prints like one. A str that is an Enum prints its class too.
        name = split.value if isinstance(split, Enum) else split
        if str(name).lower() in _EVALUATION_SPLITS:
            raise ValueError(f"{type(dataset).__name__} has split={split!r}, {advice}")
        if getattr(dataset, "train", None) is False:
            raise ValueError(f"{type(dataset).__name__} has train=False, {advice}")
