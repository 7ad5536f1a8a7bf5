"""Training a generative adversarial network into a synthesizer."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from torchaug_gen.synthesis.gan.config import RECIPES, GanConfig
from torchaug_gen.synthesis.gan.recipe import GanRecipe, betas, class_phase, learning_rate
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.training import distributed
from torchaug_gen.synthesis.training.data import read_images
from torchaug_gen.synthesis.training.loop import train

__all__ = ["RECIPES", "GanConfig", "GanRecipe", "betas", "class_phase", "learning_rate", "train_gan"]


def train_gan(
    data: str | Path | Dataset[Any],
    config: GanConfig = GanConfig(),  # noqa: B008 (frozen)
    *,
    out: str | Path,
    resume: bool = False,
    progress: bool = True,
) -> NetworkSynthesizer:
    """Train a generative adversarial network and return the synthesizer that draws from its generator.

    Args:
        data: see :func:`torchaug_gen.synthesis.training.data.read_images`.
        config: how to train.
        out: the run folder; it is made, and files of an earlier run in it are overwritten. What it receives, and how
            a training is watched, is said at :func:`torchaug_gen.synthesis.training.loop.train`.
        resume: go on from the newest checkpoint in ``out``.
        progress: show a progress bar.

    Returns:
        A synthesizer on ``config.device``, the one that ``Synthesizer.load(out)`` gives.

    Raises:
        ValueError: images or labels that cannot be learned from, named with their index; see also the loop.
        RuntimeError: the training diverged or collapsed again and again.
        TrainingInterrupted: a ``KeyboardInterrupt``; it was asked to stop, and the checkpoint is written.
    """
    with distributed.processes(config.local_device):
        images = read_images(
            data,
            image_size=config.size,
            seed=config.seed,
            max_gib=config.max_data_gib,
            labelled=not config.unconditional,
        )
        recipe = GanRecipe(images, config)
        # As resolved, so that training.json tells what was done.
        return train(recipe, images, recipe.config, out=out, resume=resume, progress=progress)
