"""The questions of :mod:`benchmarks.loader` about JPEG files, which have to be decoded."""

import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import limits, synthesizers
from benchmarks.passes import Question, counted
from benchmarks.rounds import Work, interleave
from benchmarks.shard_readers import decoded_file, webdataset_of
from torchaug_gen import AugmentedLoader, SyntheticPool, fuse
from torchaug_gen.folder import JpegFolder

BATCH = 64
STOCK = "ImageFolder + torchvision v2"
WORKERS = (0, 1, 2)
_WRAPPED = "wrapped JpegFolder"
_FRACTION, _REUSE = 0.3, 16
_TRIALS = 2

Loaders = Mapping[str, Callable[[int], Iterable[Any]]]


class Photographs:
    """Photographs, as files and as shards of the same files, to float batches of 96².

    Args:
        files: a folder for each class.
        scratch: an empty folder, for the shards.
        device: where batches are augmented; None where they stay as they are.
    """

    def __init__(self, files: Path, scratch: Path, *, device: str | None) -> None:
        from torchvision.transforms import v2

        crop: list[nn.Module] = [v2.RandomResizedCrop(96, antialias=True), v2.RandomHorizontalFlip()]
        crop.append(v2.ColorJitter(0.3, 0.3, 0.3, 0.1))
        normalize = v2.Normalize([0.5] * 3, [0.25] * 3)
        self._files, self._shards, self._device = files, scratch, device
        self._per_item = v2.Compose([v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), normalize])
        self._fused = fuse([*crop, normalize])
        _write(files, scratch)

    def rivals(self) -> Question:
        """Return ours beside what people do, each with as many workers as suit it best."""
        loaders: Loaders = {
            STOCK: self._image_folder,
            "ImageFolder, torchvision decodes, v2": functools.partial(self._image_folder, loader=decoded_file),
            "webdataset, torchvision decodes, v2": self._webdataset,
            "JpegFolder, fused by hand": lambda workers: Again(lambda: self._by_hand(self._bare(workers))),
            _WRAPPED: self._wrapped,
        }
        tried = {name: trial(make) for name, make in loaders.items()}
        best = {name: int(max(rates, key=lambda workers: rates[workers])) for name, rates in tried.items()}
        notes = {name: f"with {count} workers, the best of {', '.join(tried[name])}" for name, count in best.items()}
        contestants = {name: _pass(make(best[name])) for name, make in loaders.items()}
        about = {"notes": notes, "by_workers": tried}
        return Question(STOCK, contestants, limit=limits.decoding(self._files), about=about)

    def pool(self, workers: int = 0) -> Question:
        """Return whether a pool slows a loader of photographs down, which draws on the same cores."""
        pool = SyntheticPool(synthesizers.of_photographs().to(self._device or "cpu"), capacity=640, reuse=_REUSE)
        baseline, pooled = f"{_WRAPPED}, no synthesis", f"{_WRAPPED}, pool {_FRACTION}, reuse {_REUSE}"
        contestants = {
            baseline: _pass(self._wrapped(workers)),
            pooled: _pass(self._wrapped(workers, synthesizer=pool, synthetic_fraction=_FRACTION)),
        }
        return Question(baseline, contestants, rounds=30, real={pooled: 1 - _FRACTION})

    def _image_folder(self, workers: int, **options: Any) -> DataLoader[Any]:
        from torchvision.datasets import ImageFolder

        data = ImageFolder(str(self._files), transform=self._per_item, **options)
        return DataLoader(data, shuffle=True, **_options(workers))

    def _webdataset(self, workers: int) -> DataLoader[Any]:
        return DataLoader(webdataset_of(self._shards, transform=self._per_item), **_options(workers))

    def _bare(self, workers: int) -> DataLoader[Any]:
        return DataLoader(JpegFolder(self._files), shuffle=True, collate_fn=JpegFolder.collate, **_options(workers))

    def _wrapped(self, workers: int, **options: Any) -> AugmentedLoader[Any]:
        return AugmentedLoader(self._bare(workers), self._fused, device=self._device, **options)

    def _by_hand(self, inner: DataLoader[Any]) -> Iterator[Any]:
        seen = 0
        for images, labels in inner:
            here = images if self._device is None else images.to(torch.device(self._device))
            yield self._fused(here, positions=torch.arange(seen, seen + len(labels))), labels
            seen += len(labels)


class Again:
    """What a generator function yields, anew at each pass."""

    def __init__(self, batches: Callable[[], Iterator[Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self._batches()


def trial(make: Callable[[int], Iterable[Any]], workers: Iterable[int] = WORKERS) -> dict[str, float]:
    """Return the images per second of a loader by its number of workers: the median of a few passes."""
    works: dict[str, Work] = {str(count): _pass(make(count)) for count in workers}
    return {name: statistics.median(rates) for name, rates in interleave(works, rounds=_TRIALS).items()}


def _pass(loader: Iterable[Any]) -> Work:
    return functools.partial(counted, loader)


def _options(workers: int) -> dict[str, Any]:
    return {"batch_size": BATCH, "num_workers": workers, "persistent_workers": workers > 0}


def _write(files: Path, folder: Path) -> None:
    from torchaug_gen.shards.files import ImageFiles
    from torchaug_gen.shards.write import write_shards

    write_shards(ImageFiles(files), folder, samples_per_shard=128, shuffle=True)
