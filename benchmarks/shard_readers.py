"""Who reads photographs for :mod:`benchmarks.shards`: each writes them in its own form, and gives them decoded."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from torchaug_gen import JpegFolder

OURS, OURS_STREAMED = "ours", "ours, without an index"
PLAIN, PLAIN_FAST = "webdataset", "webdataset, torchvision decodes"
FILES, FILES_FAST = "ImageFolder", "ImageFolder, torchvision decodes"
LITDATA, MOSAIC = "litdata", "mosaicml-streaming"
NAMES = (OURS, OURS_STREAMED, PLAIN, PLAIN_FAST, FILES, FILES_FAST, LITDATA, MOSAIC)
NOTES = {
    OURS: "order, length and checksums from the index",
    PLAIN: "its own decoder, which is Pillow",
    PLAIN_FAST: "torchvision's decode_jpeg in place of its own decoder",
    FILES: "Pillow and pil_to_tensor, as in its documentation",
    LITDATA: "torchvision's decode_jpeg of the bytes it stores",
    MOSAIC: "torchvision's decode_jpeg of the bytes it stores",
}

_BUFFER = 1000


def read(name: str, folder: Path, photographs: Path, *, workers: int, batch_size: int) -> Iterable[Any]:
    """Return batches of lists of uint8 images, and labels, in a shuffled order.

    Args:
        name: one of :data:`NAMES`.
        folder: what :func:`prepare` wrote.
        photographs: the files themselves.
        workers: processes that decode.
        batch_size: images at a time.

    Raises:
        ImportError: its package is not installed.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "collate_fn": JpegFolder.collate}
    if name in (OURS, OURS_STREAMED):
        from torchaug_gen import ShardStream

        index = "auto" if name == OURS else None
        return DataLoader(ShardStream(folder / "tar", shuffle=_BUFFER, batch_size=batch_size, index=index), **options)
    if name in (PLAIN, PLAIN_FAST):
        shards = folder / "tar"
        return DataLoader(webdataset_of(shards) if name == PLAIN_FAST else _decoding(shards), **options)
    if name == FILES:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms.functional import pil_to_tensor

        return DataLoader(ImageFolder(str(photographs), transform=pil_to_tensor), shuffle=True, **options)
    if name == FILES_FAST:
        from torchvision.datasets import ImageFolder

        return DataLoader(ImageFolder(str(photographs), loader=decoded_file), shuffle=True, **options)
    return _litdata(folder, options) if name == LITDATA else _mosaic(folder, options)


def decoded_file(path: str) -> Tensor:
    """Decode a JPEG file with torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    image: Tensor = decode_jpeg(read_file(path), mode=ImageReadMode.RGB)
    return image


def prepare(folder: Path, photographs: Path) -> dict[str, str]:
    """Write the photographs for all, and return by name why some cannot take part."""
    from torchaug_gen.shards.files import ImageFiles
    from torchaug_gen.shards.write import write_shards

    write_shards(ImageFiles(photographs), folder / "tar", samples_per_shard=500, shuffle=True)
    absent = {}
    for name, write in ((LITDATA, _write_litdata), (MOSAIC, _write_mosaic)):
        try:
            # They tell of their progress on the standard output.
            with contextlib.redirect_stdout(io.StringIO()):
                write(folder, photographs)
        except ImportError as error:
            absent[name] = f"not installed ({error})"
    try:
        import webdataset
    except ImportError as error:
        absent |= dict.fromkeys((PLAIN, PLAIN_FAST), f"not installed ({error})")
    else:
        del webdataset
    return absent


def webdataset_of(folder: Path, *, transform: Callable[[Tensor], Tensor] | None = None) -> Any:
    """Return webdataset's shuffled stream of images, decoded by torchvision and transformed, and labels."""
    images = decoded if transform is None else lambda content: transform(decoded(content))
    return _shuffled(folder).to_tuple("jpg", "cls").map_tuple(images, int)


def _decoding(folder: Path) -> Any:
    return _shuffled(folder).decode("torchrgb8").to_tuple("jpg", "cls")


def _shuffled(folder: Path) -> Any:
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    stream = webdataset.WebDataset(shards, shardshuffle=len(shards), workersplitter=webdataset.split_by_worker)
    return stream.shuffle(_BUFFER)


def decoded(content: bytes) -> Tensor:
    """Decode a JPEG with torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    image: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return image


def _photographs(folder: Path) -> list[tuple[str, int]]:
    from torchvision.datasets import ImageFolder

    return list(ImageFolder(str(folder)).samples)


def as_stored(sample: tuple[str, int]) -> dict[str, Any]:
    """Return a photograph as litdata and mosaicml-streaming store it."""
    return {"jpg": Path(sample[0]).read_bytes(), "cls": sample[1]}


def _write_litdata(folder: Path, photographs: Path) -> None:
    import litdata

    # Its worker processes start anew, and would run this script again.
    samples = _photographs(photographs)
    litdata.optimize(as_stored, samples, str(folder / "litdata"), chunk_bytes="8MB", num_workers=1, start_method="fork")


def _litdata(folder: Path, options: dict[str, Any]) -> Iterable[Any]:
    import litdata

    class Photographs(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return decoded(sample["jpg"]), int(sample["cls"])

    data = Photographs(str(folder / "litdata"), shuffle=True)
    loader: Iterable[Any] = litdata.StreamingDataLoader(data, **options)
    return loader


def _write_mosaic(folder: Path, photographs: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"jpg": "bytes", "cls": "int"}, size_limit=8 << 20) as out:
        for sample in _photographs(photographs):
            out.write(as_stored(sample))


def _mosaic(folder: Path, options: dict[str, Any]) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Photographs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return decoded(sample["jpg"]), int(sample["cls"])

    # It keeps its state in shared memory of fixed names, and takes what an earlier pass left for another job's.
    clean_stale_shared_memory()
    data = Photographs(
        local=str(folder / "mds"),
        remote=None,
        shuffle=True,
        batch_size=options["batch_size"],
        shuffle_block_size=_BUFFER,
    )
    return DataLoader(data, **options)


def quiet() -> None:
    """Keep libraries from using more threads than a worker has cores."""
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
