"""LearningRates: those of a recipe, all lower by one factor after a training went wrong."""

from types import TracebackType
from typing import Any, Self

from torch.optim import Optimizer

from torchaug_gen.synthesis.training.recipe import Recipe


class LearningRates:
    """While this context lasts, every optimiser step of a recipe is taken at its learning rate times :attr:`scale`.

    The recipe need not know: whatever it sets its learning rates to, and however often, it finds them again.

    Attributes:
        scale: the factor, above 0.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.scale = 1.0
        self._optimizers = tuple(recipe.optimizers.values())
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for optimizer in self._optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._lower))
            self._hooks.append(optimizer.register_step_post_hook(self._restore))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _lower(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["own_lr"] = group["lr"]
            group["lr"] = group["lr"] * self.scale

    def _restore(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group.pop("own_lr")
