"""Running an experiment: cell after cell, in order of importance, over processes, again from where it stopped."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from tqdm import tqdm

from torchaug_gen.evaluation.efficientnet import weights_path
from torchaug_gen.evaluation.experiment.arms import ARMS
from torchaug_gen.evaluation.experiment.cell import run_cell
from torchaug_gen.evaluation.experiment.data import ExperimentData, load_folder, training_set
from torchaug_gen.evaluation.experiment.plot import figure_type, save_plot
from torchaug_gen.evaluation.experiment.result import ExperimentResult
from torchaug_gen.evaluation.experiment.settings import ExperimentSettings, Group
from torchaug_gen.evaluation.experiment.sources import FOLDS, Sources, group_seed
from torchaug_gen.evaluation.experiment.statistics import scipy_stats
from torchaug_gen.evaluation.experiment.store import Store
from torchaug_gen.evaluation.experiment.table import markdown

# What a step of training a synthesizer costs in steps of a classifier, for the estimate of the time left.
_COST = {"vae": 4, "gan": 7}
_POLL_SECONDS = 1.0
_MOST_WORKERS = 8


def run_experiment(
    data: str | Path | ExperimentData,
    settings: ExperimentSettings | None = None,
    *,
    out: str | Path,
    image_size: int = 64,
    workers: int | None = 1,
    seconds: float | None = None,
    progress: bool = True,
) -> ExperimentResult:
    """Train the same small classifier with and without synthetic images, and say what that did.

    Every cell, which is one arm at one size on one seed, is kept in ``out/cells`` when it is done, and a trained
    synthesizer in ``out/synthesizers``: the same call again does what is left, and one with more seeds, sizes or arms
    adds theirs. Whenever it stops, ``out`` holds ``results.json``, ``results.md`` and ``results.png`` of all that
    is there.

    Args:
        data: a folder of images (:func:`torchaug_gen.evaluation.experiment.data.load_folder`), or images in memory.
        settings: what is varied, and what is not; ``ExperimentSettings()`` where it is left out.
        out: folder to write.
        image_size: side in pixels of images from a folder.
        workers: processes, each with an equal part of the cores. More than one start a new interpreter each, so the
            caller's script must be importable without running it again. ``None``: one for each core as far as there
            are training sets and 8 at most, since each holds the images; one on a GPU.
        seconds: begin no further cell after so long.
        progress: show a bar with the time left.

    Raises:
        ModuleNotFoundError: SciPy, matplotlib, or the weights that an arm's gate looks at are not installed.
        FileNotFoundError: no folder ``data``.
        ValueError: an argument out of range, or images that cannot be used.
        RuntimeError: a process ended before its work was done.
        KeyboardInterrupt: Ctrl-C, or with one worker SIGTERM while a synthesizer is trained; results of what is done
            are written first, and the same call goes on from there.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"seconds must be a number of at least 0, got {seconds}")
    settings = settings or ExperimentSettings()
    # What the results and the last arm need is missed now, and not after a night of training.
    scipy_stats()
    figure_type()
    if any(ARMS[arm].gate == "pretrained" for arm in settings.arms):
        weights_path()
    images = data if isinstance(data, ExperimentData) else load_folder(data, image_size=image_size)
    _check_sizes(images, settings)
    plan = _Plan(images, settings, Path(out), None if seconds is None else time.time() + seconds)
    workers = workers or _usual_workers(settings)
    try:
        if workers == 1:
            _run_here(plan, progress)
        else:
            _run_beside(plan, workers, progress)
    finally:
        result = collect(images, settings, out=out)
        write(result, out)
    return result


def _usual_workers(settings: ExperimentSettings) -> int:
    if torch.device(settings.device).type != "cpu":
        return 1
    return min(os.cpu_count() or 1, len(list(settings.groups())), _MOST_WORKERS)


def collect(data: ExperimentData, settings: ExperimentSettings, *, out: str | Path) -> ExperimentResult:
    """Return the result of the cells that are in ``out``, running none."""
    store, cells, missing = Store(Path(out) / "cells"), [], 0
    for group in settings.groups():
        for arm in settings.arms:
            found = store.get(settings.key(group, arm, data.digest, data.side))
            if found is None:
                missing += 1
            else:
                cells.append({"arm": arm, "per_class": group.per_class, "seed": group.index, **found})
    return ExperimentResult(
        name=data.name,
        about=_about(data, settings),
        cells=tuple(cells),
        metric=settings.metric,
        missing=missing,
        settings=settings.as_json(),
        notes=(*data.notes, *_short(data, settings)),
        tested=len(data.test),
        splits=data.splits if len(data.splits) > 1 else {},
        family=len(settings.per_class) * sum(ARMS[arm].baseline is not None for arm in settings.arms),
    )


def write(result: ExperimentResult, out: str | Path) -> None:
    """Write ``results.json``, ``results.md`` and, where there is something to draw, ``results.png`` into a folder."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    found = result.as_json()
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(result), encoding="utf-8")
    if result.cells:
        save_plot(found, out / "results.png")


@dataclass(frozen=True, eq=False)
class _Plan:
    """What processes need to know to run a group of cells."""

    data: ExperimentData
    settings: ExperimentSettings
    out: Path
    deadline: float | None

    def left(self) -> list[tuple[Group, list[str]]]:
        """Return the cells that are not there yet, group by group."""
        settings, store = self.settings, Store(self.out / "cells")
        found = []
        for group in settings.groups():
            arms = [arm for arm in settings.arms if store.get(self.key(group, arm)) is None]
            if arms:
                found.append((group, arms))
        return found

    def key(self, group: Group, arm: str) -> str:
        return self.settings.key(group, arm, self.data.digest, self.data.side)

    def cost(self, arms: list[str]) -> int:
        """Return about how many steps of a classifier these cells of a group take."""
        side = self.data.side
        steps = {"vae": self.settings.vae_for(side).steps, "gan": self.settings.gan_for(side).steps}
        kinds = {kind for arm in arms if (kind := ARMS[arm].needs) is not None}
        gates = {gate for arm in arms if (gate := ARMS[arm].gate) is not None}
        classifiers, trained = len(arms) + len(gates), sum(_COST[kind] * steps[kind] for kind in kinds)
        for arm in arms:
            if ARMS[arm].validated and (kind := ARMS[arm].needs) is not None:
                # With and without synthetic images on each fold, whose synthesizer is its own.
                classifiers += 2 * FOLDS
                trained += FOLDS * _COST[kind] * steps[kind]
        return self.settings.steps * classifiers + trained

    def run(self, group: Group, arms: list[str]) -> Iterator[str]:
        """Run the cells of a group one after the other, yielding each arm when its result is kept."""
        settings = self.settings
        images = training_set(
            self.data,
            group.per_class,
            seed=group_seed(settings, group),
            imbalance=settings.imbalance,
            synthetic_fraction=settings.synthetic_fraction,
        )
        sources = Sources(self.data, images, settings, group, self.out / "synthesizers")
        for arm in arms:
            if self.deadline is not None and time.time() > self.deadline:
                return
            result = run_cell(arm, sources)
            about = {"arm": arm, "per_class": group.per_class, "seed": group.index}
            Store(self.out / "cells").put(self.key(group, arm), {**about, **result})
            yield arm


def _run_here(plan: _Plan, progress: bool) -> None:
    left = plan.left()
    total = sum(plan.cost(arms) for _, arms in left)
    with tqdm(total=total, unit="step", disable=not progress, desc="cells", smoothing=0.1) as bar:
        for group, arms in left:
            waiting = list(arms)
            for arm in plan.run(group, arms):
                before = plan.cost(waiting)
                waiting.remove(arm)
                bar.update(before - (plan.cost(waiting) if waiting else 0))
                bar.set_description(f"{group}, {arm}")


def _run_beside(plan: _Plan, workers: int, progress: bool) -> None:
    """Run groups in processes; a group stays in one, since its cells share synthesizers."""
    left = plan.left()
    total = sum(plan.cost(arms) for _, arms in left)
    threads = max(1, (os.cpu_count() or 1) // workers)
    with (
        tqdm(total=total, unit="step", disable=not progress, desc="cells") as bar,
        ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(plan, threads)
        ) as pool,
    ):
        running: set[Future[None]] = set()
        try:
            running = {pool.submit(_run_group, group, arms) for group, arms in left}
            while running:
                done, running = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                bar.update(total - sum(plan.cost(arms) for _, arms in plan.left()) - bar.n)
                for future in done:
                    future.result()
        except BaseException as error:
            # The pool forgets its processes when it shuts down.
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                # A training would take a request to end as one to stop in order; what it writes is whole or not there.
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise RuntimeError(
                    "a process of the experiment ended before its work was done: a script that calls run_experiment "
                    "with several workers must do so under if __name__ == '__main__':, since every process imports "
                    "it; otherwise it was ended from outside, as where memory is short"
                ) from error
            raise


_plan: _Plan | None = None


def _begin(plan: _Plan, threads: int) -> None:
    """Prepare a process: what all of its groups need is sent once."""
    global _plan  # noqa: PLW0603
    # Ctrl-C in a terminal reaches every process; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody tells processes of one that was ended from outside, and they would work on for nobody.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _plan = plan


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_group(group: Group, arms: list[str]) -> None:
    if _plan is None:
        raise RuntimeError("the process was not prepared")
    for _ in _plan.run(group, arms):
        pass


def _check_sizes(data: ExperimentData, settings: ExperimentSettings) -> None:
    if min(data.stock.counts) < min(settings.per_class):
        rarest = data.stock.classes[data.stock.counts.index(min(data.stock.counts))]
        raise ValueError(
            f"per_class must hold a number of at most {min(data.stock.counts)}, the images that class {rarest} has to "
            f"train on, got {settings.per_class}"
        )


def _short(data: ExperimentData, settings: ExperimentSettings) -> list[str]:
    """Say which classes have fewer images than a size asks for, or none beside them."""
    notes = []
    for size in settings.per_class:
        short = [
            f"{name} {count}" for name, count in zip(data.stock.classes, data.stock.counts, strict=True) if count < size
        ]
        if short:
            notes.append(f"At {size} per class some classes have fewer: {', '.join(short)}.")
    return notes


def _about(data: ExperimentData, settings: ExperimentSettings) -> str:
    splits = " and ".join(f"{count:,} of {name}" for name, count in data.splits.items())
    splits = splits if len(data.splits) > 1 else next(iter(data.splits))
    imbalance = (
        "" if settings.imbalance == 1 else f" The commonest class has {settings.imbalance:g} times the rarest's."
    )
    return (
        f"{len(data.stock.classes)} classes at {data.side} px; tested on {len(data.test):,} images ({splits}). Each "
        f"classifier takes {settings.steps} steps of {settings.batch_size} rows, {settings.synthetic_fraction:.0%} of "
        f"them synthetic where there are synthetic ones; synthesizers are trained on the same images and no others."
        f"{imbalance}"
    )
