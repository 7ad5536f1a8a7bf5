"""Image files and samples on the disk, as they are, for writing them into shards."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torch.utils.data import Dataset

from torchaug_gen.shards.decode import decode_image
from torchaug_gen.shards.encode import FORMATS
from torchaug_gen.shards.index import ShardIndex, Span, index_shard, read_index

if TYPE_CHECKING:
    from PIL import Image

_TREES = ("train", "training", "test", "testing", "val", "valid", "validation")
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}


class ImageFiles(Dataset[dict[str, Any]]):
    """The images below a folder, a subfolder for each class, as mappings of ``__key__``, image and ``cls``.

    Images are told by their endings, those of ``ImageFolder`` and ``.gif``. Files that readers of shards can decode
    stay as they are, to the byte; each is decoded once, so that a damaged one is found here. Those of other kinds, such
    as BMP, become PNG. Keys are the files' names without their endings.

    Args:
        folder: of the subfolders.
        image_format: ``"jpg"``, ``"png"`` or ``"webp"`` to encode all anew; ``None`` keeps what they are.
        short_side: pixels that the shorter side of larger images is shrunk to, by Lanczos; these are encoded anew.

    Attributes:
        classes: the names of the subfolders, sorted.
        left_out: the other files, but for hidden ones.

    Raises:
        FileNotFoundError: no folder, no subfolder, or one without an image.
        ValueError: subfolders that are no classes, such as ``train`` and ``test``, or a ``short_side`` below 1.
    """

    def __init__(self, folder: Path, *, image_format: str | None = None, short_side: int | None = None) -> None:
        from torchvision.datasets import ImageFolder
        from torchvision.datasets.folder import IMG_EXTENSIONS

        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side must be at least 1, got {short_side}")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        trees = [name for name in _TREES if _holds_folders(folder / name)]
        if trees:
            raise ValueError(f"{folder} holds {' and '.join(trees)}, which are no classes: write {folder / trees[0]}")
        self.left_out = sorted(path for path in folder.iterdir() if path.is_file() and not _is_hidden(path))
        endings = (*IMG_EXTENSIONS, ".gif")

        def is_image(path: str) -> bool:
            image = path.lower().endswith(endings)
            if not image and not _is_hidden(Path(path)):
                self.left_out.append(Path(path))
            return image

        try:
            found = ImageFolder(str(folder), is_valid_file=is_image)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{str(error).rstrip()} Images end in {', '.join(endings)}") from error
        self.classes = tuple(found.classes)
        self._files = [(Path(path), label) for path, label in found.samples]
        self._folder, self._image_format, self._short_side = folder, image_format, short_side
        self._stems = Counter(path.with_suffix("") for path, _ in self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import UnidentifiedImageError

        path, label = self._files[index]
        try:
            extension, image = self._image(path)
        except UnidentifiedImageError as error:
            raise ValueError(f"{path}: no image that Pillow knows") from error
        # Decoders meet damage in many ways; KeyboardInterrupt is none of these.
        except Exception as error:
            raise ValueError(f"{path}: {error}") from error
        stem = path.with_suffix("")
        # Two files that differ in their ending only.
        name = stem if self._stems[stem] == 1 else stem.with_name(f"{stem.name}-{path.suffix[1:]}")
        return {"__key__": name.relative_to(self._folder).as_posix(), extension: image, "cls": label}

    def _image(self, path: Path) -> tuple[str, Any]:
        from PIL import Image

        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind = _EXTENSIONS.get(str(image.format), "")
            wanted = self._image_format or kind
            if self._short_side is not None and min(image.size) > self._short_side:
                image.load()
                # A GIF that is shrunk, like what no reader knows, becomes PNG.
                return wanted if wanted in FORMATS else "png", _shrunk(image, self._short_side)
            if wanted and wanted == kind:
                decode_image(content)
                return kind, content
            image.load()
            return wanted or "png", image.copy()


class TarSamples:
    """The samples of the shards in a folder, as they are, as mappings of ``__key__`` and each field's bytes.

    Args:
        folder: of uncompressed ``*.tar``.

    Attributes:
        classes: as the folder's index says, where there is one.

    Raises:
        FileNotFoundError: no shard there, or not all that the index tells of.
        ValueError: while iterating, a damaged or compressed one, named.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = sorted(path for path in folder.glob("*.tar") if path.is_file())
        if not self._shards:
            raise FileNotFoundError(f"the folder {str(folder)!r} holds no *.tar")
        index = read_index(folder)
        self.classes = None if index is None else index.classes
        lost = set(() if index is None else index.numbers) - {path.name for path in self._shards}
        if lost:
            raise FileNotFoundError(f"{folder} lacks {min(lost)}, which its index tells of")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self._shards:
            # Its files may be in any order, and links to each other.
            shard, line = index_shard(path)
            with path.open("rb") as file:
                for sample in ShardIndex([shard], [line]).samples(0):
                    if sample.repeated is not None:
                        raise ValueError(f"shard {path}, sample {sample.key!r}: two files of field {sample.repeated!r}")
                    yield {"__key__": sample.key} | {name: _content(file, span) for name, span in sample.files.items()}


def _content(file: BinaryIO, span: Span) -> bytes:
    file.seek(span.offset)
    return file.read(span.size)


def _shrunk(image: "Image.Image", short_side: int) -> "Image.Image":
    from PIL import Image

    scale = short_side / min(image.size)
    size = tuple(max(short_side, round(side * scale)) for side in image.size)
    # Indexed colours cannot be mixed.
    full = image.convert("RGB") if image.mode in ("P", "PA") else image
    return full.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _holds_folders(folder: Path) -> bool:
    return folder.is_dir() and any(child.is_dir() for child in folder.iterdir())
