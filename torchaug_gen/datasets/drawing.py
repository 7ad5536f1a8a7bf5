"""What the data sets share: drawing, fetching and checks."""

from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from torchaug_gen.labels import class_count


def draw(synthesizer: Any, positions: Tensor, labels: Tensor | None, *, seed: int, epoch: int) -> Any:
    """Draw images and labels for a data set, in the main process or in a DataLoader worker.

    Raises:
        ValueError: a synthesizer on CUDA in a worker.
    """
    device = getattr(synthesizer, "device", None)
    if get_worker_info() is not None and getattr(device, "type", "cpu") != "cpu":
        raise ValueError(
            f"the synthesizer is on {device}, which DataLoader workers cannot use: draw in the main process with "
            "AugmentedLoader(loader, synthesizer=...), move it with synthesizer.to('cpu'), or use num_workers=0"
        )
    if labels is None:
        return synthesizer.sample(len(positions), seed=seed, epoch=epoch, positions=positions)
    return synthesizer.sample(labels=labels, seed=seed, epoch=epoch, positions=positions)


def fetch(dataset: Any, indices: list[int]) -> list[Any]:
    """Return items of a map-style data set, all at once where it can."""
    if not indices:
        return []
    if callable(getattr(dataset, "__getitems__", None)):
        return list(dataset.__getitems__(indices))
    return [dataset[index] for index in indices]


def check_class_count(real: Any, synthesizer: Any) -> None:
    """Raise ``ValueError`` where a real data set tells its classes and the synthesizer has another number of them."""
    known, told = getattr(synthesizer, "num_classes", None), class_count(real)
    if known is not None and told is not None and told != known:
        raise ValueError(f"the real data set has {told} classes, but the synthesizer has {known}")


def draws(source: Any) -> bool:
    """Say whether something is a synthesizer."""
    return callable(getattr(source, "sample", None))


def tell(epoch: int, *datasets: Any) -> None:
    """Tell the epoch to those data sets that listen."""
    for dataset in datasets:
        if callable(getattr(dataset, "set_epoch", None)):
            dataset.set_epoch(epoch)


def checked_index(index: int, length: int) -> int:
    """Return an index counted from the start, or raise ``IndexError``."""
    index = int(index)
    if not -length <= index < length:
        raise IndexError(f"index must be in {-length}..{length - 1}, got {index}")
    return index % length
