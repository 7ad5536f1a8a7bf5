"""The loop in which every synthesizer is trained."""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from tqdm.auto import tqdm

from torchaug_gen.synthesis import grids
from torchaug_gen.synthesis.network import NetworkSynthesizer
from torchaug_gen.synthesis.runs import CONFIG, PROGRAM, SUMS, WEIGHTS, load_run, save_run, write_atomically
from torchaug_gen.synthesis.training import checkpoints, distributed
from torchaug_gen.synthesis.training.batches import take
from torchaug_gen.synthesis.training.checkpoints import Checkpoints, TrainingState, fingerprint
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.history import History, Pending
from torchaug_gen.synthesis.training.interruption import Interruption, TrainingInterrupted
from torchaug_gen.synthesis.training.learning_rates import LearningRates
from torchaug_gen.synthesis.training.recipe import Recipe
from torchaug_gen.synthesis.training.settings import TrainingSettings
from torchaug_gen.synthesis.training.watch import Watch

TRAINING = "training.json"
SAMPLES = "samples.png"
GRIDS = "grids"
# Steps between two readings of the losses, which wait for the device.
_READ_EVERY = {"cuda": 16}
_SHOWN = 4


def train(
    recipe: Recipe,
    images: TrainingImages,
    settings: TrainingSettings,
    *,
    out: str | Path,
    resume: bool = False,
    progress: bool = True,
) -> NetworkSynthesizer:
    """Train a recipe and return the synthesizer that draws from it.

    Each step takes the next ``batch_size`` images of an endless chain of shuffles of the data. Several processes,
    started by ``torchrun``, share out the rows of each batch and average their gradients, so that they train what one
    process would, up to rounding; rank 0 alone writes, and all must see the same folder.

    The run folder ``out`` receives what :meth:`Synthesizer.load` reads, ``training.json`` with the settings,
    ``history.jsonl`` with the losses of each step, ``grids`` and ``samples.png`` with samples at fixed latents, and
    ``checkpoints`` with the newest two checkpoints. On Ctrl-C or SIGTERM a checkpoint is written first.

    Where a training diverges or collapses (:class:`torchaug_gen.synthesis.training.watch.Watch`), it warns, goes back
    to the last good checkpoint, and goes on from there with other images and random numbers, since positions do not go
    back, and with half the learning rates. Where that fails before the next checkpoint, it goes back to the one before.

    Args:
        recipe: its networks lie on the device of the training.
        images: the same in every process.
        settings: how to train; a recipe's own settings extend these.
        out: the run folder; it is made, and files of an earlier run in it are overwritten.
        resume: go on from the newest checkpoint in ``out``. On the CPU the weights come out as if the training had
            never stopped. Settings must be the same; only ``steps``, the device and what decides no weight may change.
            With more ``steps`` than it began with, schedules that end with the training, such as the VAE's learning
            rate and the GAN's γ, go on as those of the longer one: its weights are not those of one that was as long
            from the beginning.
        progress: show a progress bar.

    Returns:
        A synthesizer on the recipe's device, the one that ``Synthesizer.load(out)`` gives.

    Raises:
        ValueError: a batch that cannot be shared out, or a resumption with other settings or data, named.
        FileNotFoundError: nothing to resume.
        RuntimeError: the training failed more than ``max_rollbacks`` times.
        TrainingInterrupted: a ``KeyboardInterrupt``; it was asked to stop, and the checkpoint is written.
    """
    out = Path(out)
    device = next(recipe.networks.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.amp and device.type == "cuda")
    with distributed.processes(device) as share, Interruption() as interruption, LearningRates(recipe) as rates:
        if settings.batch_size % share.count:
            raise ValueError(
                f"batch_size must be divisible by the {share.count} processes that share it, got {settings.batch_size}"
            )
        with _Run(recipe, images, settings, out=out, first=share.index == 0, rates=rates) as run:
            state, pending = run.begin(resume=resume, progress=progress), Pending()
            while state.step < settings.steps:
                batch = take(
                    images,
                    seed=settings.seed,
                    position=state.position,
                    size=settings.batch_size,
                    device=device,
                    share=share,
                )
                with autocast:
                    losses = recipe.step(batch, state.step, reduce=distributed.average_gradients)
                pending.add(state.step, losses)
                state.step += 1
                state.position += settings.batch_size
                saves = state.step % settings.checkpoint_every == 0 or state.step == settings.steps
                draws = settings.grid_every > 0 and state.step % settings.grid_every == 0
                if not (saves or draws or len(pending) >= _READ_EVERY.get(device.type, 1)):
                    continue
                rows, stops = pending.read(interruption.asked)
                trouble = run.write(rows) or (run.look() if saves or stops else None)
                if trouble is not None:
                    state = run.roll_back(state, trouble)
                elif saves or stops:
                    run.save(state)
                if draws and trouble is None:
                    run.draw(state.step)
                if stops:
                    raise TrainingInterrupted(
                        f"stopped after step {state.step} of {settings.steps}, with a checkpoint in "
                        f"{out / checkpoints.FOLDER}: resume=True (on the command line, --resume) goes on from there"
                    )
            return run.finish()


class _Run:
    """A run folder while a training fills it; of several processes only the first writes."""

    def __init__(
        self,
        recipe: Recipe,
        images: TrainingImages,
        settings: TrainingSettings,
        *,
        out: Path,
        first: bool,
        rates: LearningRates,
    ) -> None:
        self.recipe, self.images, self.settings = recipe, images, settings
        self.out, self.first, self.rates = out, first, rates
        self.checkpoints = Checkpoints(out, recipe, fingerprint(recipe, images, settings))
        self.watch = Watch(recipe, images, seed=settings.seed)
        self.history: History | None = None
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for open_file in (self.bar, self.history):
            if open_file is not None:
                open_file.close()

    def begin(self, *, resume: bool, progress: bool) -> TrainingState:
        """Make the folder ready, with a checkpoint to go back to, and return where the training stands."""
        state = self._resumed() if resume else TrainingState()
        distributed.check_equal(self.recipe.networks, self.checkpoints.fingerprint)
        self._go_on(state)
        if self.first:
            self.out.mkdir(parents=True, exist_ok=True)
            if not resume:
                self._clear()
            write_atomically(self.out / TRAINING, (json.dumps(asdict(self.settings), indent=2) + "\n").encode())
            self.history = History(
                self.out, lines=state.history_lines, step=state.step, tensorboard=self.settings.tensorboard
            )
            self.bar = tqdm(total=self.settings.steps, initial=state.step, disable=not progress, unit="step")
            if not resume:
                self.checkpoints.save(state)
        distributed.wait_for_all()
        return state

    def write(self, rows: list[tuple[int, dict[str, float]]]) -> str | None:
        """Write down the losses of some steps, and return what is wrong with the first bad one."""
        for step, losses in rows:
            if self.history is not None and self.bar is not None:
                self.history.write(step, losses)
                shown = {name: f"{value:.3g}" for name, value in list(losses.items())[:_SHOWN]}
                self.bar.set_postfix(shown, refresh=False)
                self.bar.update()
            trouble = self.watch.losses(losses, step)
            if trouble is not None:
                return f"{trouble} at step {step}"
        return None

    def look(self) -> str | None:
        """Return what is wrong with weights and samples; all processes get the opinion of the first."""
        with _modes_kept(self.recipe.networks):
            trouble = self.watch.samples(self.recipe.synthesizer()) if self.first else None
        agreed: str | None = distributed.from_first(trouble)
        return agreed

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint."""
        if self.history is not None:
            state.watch, state.returned, state.history_lines = self.watch.state_dict(), False, self.history.lines
            self.checkpoints.save(state)
        else:
            state.returned = False
        distributed.wait_for_all()

    def draw(self, step: int) -> None:
        """Write a grid of samples."""
        if self.first:
            with _modes_kept(self.recipe.networks):
                path = self.out / GRIDS / f"step-{step:08d}.png"
                grids.save_samples(self.recipe.synthesizer(), path, seed=self.settings.seed)

    def roll_back(self, state: TrainingState, trouble: str) -> TrainingState:
        """Return to the newest checkpoint, or where it was returned to already, to the one before it."""
        if state.rollbacks >= self.settings.max_rollbacks:
            tried = f", after going back {state.rollbacks} times and halving the learning rates each time"
            raise RuntimeError(
                f"{trouble}{tried if state.rollbacks else ''}: lower the learning rate, or change other settings"
            )
        *older, path = self.checkpoints.paths()
        if older and state.returned:
            path = older[-1]
        good = self.checkpoints.load(path)
        good.returned, good.rollbacks = True, state.rollbacks + 1
        good.learning_rate_scale = state.learning_rate_scale / 2
        good.position = state.position
        self._go_on(good)
        # Before the first process removes and writes files, all have read theirs.
        distributed.wait_for_all()
        if self.history is not None and self.bar is not None:
            self.history.write(state.step - 1, {"event": "rolled back", "to": good.step, "reason": trouble})
            good.history_lines = self.history.lines
            for newer in self.checkpoints.paths():
                if newer > path:
                    newer.unlink()
            # Written again, so that a resumption goes on from here and not into the same trouble.
            self.checkpoints.save(good)
            self.bar.n = good.step
            warnings.warn(
                f"{trouble}: going back to step {good.step} with {good.learning_rate_scale:g} of the learning rates",
                RuntimeWarning,
                stacklevel=3,
            )
        distributed.wait_for_all()
        return good

    def finish(self) -> NetworkSynthesizer:
        """Write the synthesizer, and return what the folder holds."""
        distributed.check_equal(self.recipe.networks)
        self.recipe.finish(self.images)
        synthesizer = self.recipe.synthesizer()
        device = synthesizer.device
        if self.first:
            synthesizer.classes = self.images.classes
            save_run(synthesizer, self.out)
            self.checkpoints.prune(keep=1)
        distributed.wait_for_all()
        # Trusted, whatever the network: this training wrote it a moment ago.
        synthesizer = load_run(self.out, device=device, trust=True)
        if self.first:
            grids.save_samples(synthesizer, self.out / SAMPLES, seed=self.settings.seed)
            if (doubt := self.watch.verdict(synthesizer)) is not None:
                warnings.warn(doubt, RuntimeWarning, stacklevel=3)
        return synthesizer

    def _resumed(self) -> TrainingState:
        paths = self.checkpoints.paths()
        if not paths:
            raise FileNotFoundError(f"no checkpoint in {self.checkpoints.folder} to resume from: start without resume")
        state, steps = self.checkpoints.load(paths[-1]), self.settings.steps
        if steps < state.step:
            raise ValueError(f"steps must be at least the {state.step} that {paths[-1]} has done, got {steps}")
        return state

    def _clear(self) -> None:
        """Remove an earlier run, whose synthesizer would else be loaded as that of a training that was interrupted."""
        self.checkpoints.prune(keep=0)
        shutil.rmtree(self.out / GRIDS, ignore_errors=True)
        for name in (SUMS, CONFIG, WEIGHTS, PROGRAM, SAMPLES):
            (self.out / name).unlink(missing_ok=True)

    def _go_on(self, state: TrainingState) -> None:
        self.watch.load_state_dict(state.watch)
        self.rates.scale = state.learning_rate_scale


@contextmanager
def _modes_kept(networks: nn.Module) -> Iterator[None]:
    """Put every module back into the mode, training or evaluation, that it was in; drawing changes it."""
    modes = [(module, module.training) for module in networks.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def read_settings(run: Path) -> Mapping[str, Any]:
    """Return the settings that a run's training was started with.

    Raises:
        FileNotFoundError: a folder without a training.
        ValueError: a file that is no JSON object.
    """
    path = run / TRAINING
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"no training in {run}: {TRAINING} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values
