"""JpegFolder: photographs in a folder for each class, decoded fast and handed out as they are."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from torchaug_gen.batch.ragged import RaggedImages
from torchaug_gen.shards.decode import IMAGE_EXTENSIONS, UndecodableError, decode

Item = tuple[Tensor, int]


class JpegFolder(Dataset[Item]):
    """A map-style data set of images in a folder for each class, as torchvision's ``ImageFolder`` finds them.

    Images come as uint8 tensors of their own sizes, straight from the decoder. A fused transform with a crop or
    resize brings a whole batch of them to one size in one pass, where a transform in the data set would go over each
    image several times, one by one::

        loader = DataLoader(JpegFolder(root), 64, shuffle=True, collate_fn=JpegFolder.collate)
        loader = AugmentedLoader(loader, [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()])

    Files are told apart by content, whatever their names end in:

    - JPEG by torchvision's decoder, also grey ones, CMYK and YCCK, which become RGB; 12-bit and arithmetic-coded
      files that it does not know raise.
    - PNG, WebP and the first frame of a GIF by Pillow; palettes become colours, transparency is dropped, 16 bits a
      channel raise, because what their values mean is anybody's guess.

    EXIF orientation is not applied, as ``ImageFolder`` does not. The paths are kept in one block of memory, which
    workers share with the main process, instead of as Python objects, which each of them would come to copy.

    Args:
        root: with a subfolder for each class, and images anywhere below it. Symbolic links are followed.
        channels: 3 for RGB images, grey ones repeated without taking more memory; 1 for grey ones, colour
            weighted as in ITU-R BT.601.
        min_side: decode JPEG at a half, a quarter or an eighth of its size, as long as the shorter side keeps so many
            pixels: large photographs come many times faster, and in little memory. Pillow does that, whose
            decoder smooths as it shrinks. ``None`` for full size.
        transform: called with each uint8 image ``(C, H, W)``, for what cannot be done batch by batch.

    Attributes:
        classes: names of the classes, sorted.
        class_to_idx: the label of each.

    Raises:
        FileNotFoundError: no such folder, no subfolder, or one without images.
        ValueError: an argument out of range; on reading, a file that cannot be decoded, named.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Path(root, "cats").mkdir()
        ...     Image.new("RGB", (30, 20)).save(Path(root, "cats", "tom.jpg"))
        ...     data = JpegFolder(root)
        ...     data.classes, data[0][0].shape
        (['cats'], torch.Size([3, 20, 30]))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        channels: int = 3,
        min_side: int | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        if min_side is not None and (type(min_side) is not int or min_side < 1):
            raise ValueError(f"min_side must be an integer of at least 1, or None, got {min_side!r}")
        self.root, self.channels, self.min_side, self.transform = os.fspath(root), channels, min_side, transform
        self.classes = _classes(self.root)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        paths, labels = [], []
        for label, name in enumerate(self.classes):
            found = [os.fsencode(path) for path in _images(Path(self.root, name), self.root)]
            paths += found
            labels += [label] * len(found)
        self._labels = np.array(labels, np.int64)
        self._text = np.frombuffer(b"".join(paths), np.uint8)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Item:
        number = range(len(self))[index]
        image = self._image(number)
        return image if self.transform is None else self.transform(image), int(self._labels[number])

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several items; where there are no workers, decoded on as many threads as PyTorch uses."""
        # Whoever iterates over the indices finds the generators seeded for each, which a transform may want.
        if self.transform is not None or get_worker_info() is not None or torch.get_num_threads() == 1:
            return [self[index] for index in indices]
        from torchaug_gen.augment.backends.cpu import spread

        numbers = [range(len(self))[index] for index in indices]
        items: list[Any] = [None] * len(numbers)

        def work(first: int, last: int) -> None:
            for place in range(first, last):
                items[place] = self[numbers[place]]

        spread(len(numbers), work)
        return items

    @staticmethod
    def collate(items: Sequence[Item]) -> tuple[RaggedImages | Tensor | list[Any], Tensor]:
        """Return items as a list of images and a tensor of labels ``(N,)`` int64: a ``collate_fn``.

        Images that a ``transform`` made something else of are stacked where they are tensors of one size.
        """
        images, labels = [image for image, _ in items], torch.tensor([label for _, label in items])
        if not all(isinstance(image, Tensor) and image.ndim == 3 for image in images):
            return images, labels
        return RaggedImages(images), labels

    @property
    def draws_nothing(self) -> bool:
        """Whether items are the same each time, so that nothing need be seeded for them."""
        return self.transform is None

    @property
    def targets(self) -> list[int]:
        """The labels of all items."""
        targets: list[int] = self._labels.tolist()
        return targets

    @property
    def samples(self) -> list[tuple[str, int]]:
        """Path and label of all items, in ``ImageFolder``'s order."""
        return [(self.path(index), label) for index, label in enumerate(self.targets)]

    imgs = samples

    def path(self, index: int) -> str:
        """Return the path of an item."""
        number = range(len(self))[index]
        start = int(self._ends[number - 1]) if number else 0
        return str(Path(self.root, os.fsdecode(self._text[start : int(self._ends[number])].tobytes())))

    def __repr__(self) -> str:
        return f"JpegFolder({self.root!r}, {len(self)} images of {len(self.classes)} classes)"

    def _image(self, number: int) -> Tensor:
        """Return an image as uint8 ``(C, H, W)``, or raise with its path."""
        path = self.path(number)
        content = Path(path).read_bytes()
        try:
            image: Tensor = (
                _reduced(content, self.min_side) if self.min_side and _is_jpeg(content) else decode("jpg", content)
            )
        except ValueError as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error
        if image.shape[0] == self.channels:
            return image
        return image.expand(3, -1, -1) if self.channels == 3 else _grey(image)


def _classes(root: str) -> list[str]:
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} must be a folder with one for each class, but there is no such folder")
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"{root} must have a folder for each class, got none")
    return classes


def _images(folder: Path, root: str) -> Iterator[str]:
    """Yield the images below a folder, relative to the root, in the order of ``ImageFolder``."""
    found = False
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(_ENDINGS):
                found = True
                yield os.path.relpath(Path(place, name), root)
    if not found:
        raise FileNotFoundError(f"{folder} must hold images ({', '.join(_ENDINGS)}), got none: remove the folder")


_ENDINGS = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


def _is_jpeg(content: bytes) -> bool:
    return content.startswith(b"\xff\xd8\xff")


def _reduced(content: bytes, side: int) -> Tensor:
    """Decode a JPEG at a half, a quarter or an eighth of its size, its shorter side of at least ``side`` pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            grey = image.mode == "L"
            # The largest of these that divides the shorter side so: Pillow takes the size as a bound from below.
            scale = max((scale for scale in (1, 2, 4, 8) if min(image.size) >= scale * side), default=1)
            image.draft("L" if grey else "RGB", (image.width // scale, image.height // scale))
            pixels = np.array(image if image.mode == "RGB" else image.convert("L" if grey else "RGB"))
    # Under `python -W error` a library's warning is not the file's fault.
    except Warning:
        raise
    except Exception as error:
        raise UndecodableError("image", str(error) or type(error).__name__) from error
    return torch.from_numpy(pixels[..., None] if grey else pixels).permute(2, 0, 1)


def _grey(image: Tensor) -> Tensor:
    """Return the luma of an RGB image, as Pillow and libjpeg round it."""
    red, green, blue = image.to(torch.int32)
    # Weights of ITU-R BT.601, in 65,536ths.
    luma: Tensor = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return luma.to(torch.uint8)[None]
