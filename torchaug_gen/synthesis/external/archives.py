"""Zip archives, which ``.pth``, ``.pt``, ``.ts`` and ``.pt2`` files are: which kind, and whether they are bombs."""

import io
import zipfile
from pathlib import Path
from typing import Literal

Kind = Literal["state dict", "TorchScript", "torch.export"]

# PyTorch stores tensors as they are and deflates only TorchScript's code, which is text of some hundred kilobytes.
_MAX_INFLATED = 64 << 20
_MAX_ENTRIES = 1 << 17


def archive_kind(content: bytes, path: Path) -> Kind:
    """Return what kind of file this is, from its table of contents alone.

    Args:
        content: a file that :func:`torch.save`, :func:`torch.jit.save` or :func:`torch.export.save` may have written.
        path: its name, for errors.

    Raises:
        ValueError: an archive that is damaged, or unpacks to far more than it takes.
    """
    if not content.startswith(b"PK"):
        # Before PyTorch 1.6 a state dict was a bare pickle.
        return "state dict"
    entries = check_archive(content, path)
    names = {name.partition("/")[2] for name in entries}
    if "archive_format" in names or "serialized_exported_program.json" in {*names, *entries}:
        return "torch.export"
    if "constants.pkl" in names:
        return "TorchScript"
    return "state dict"


def check_archive(content: bytes, path: Path) -> list[str]:
    """Return the names in an archive, or raise ``ValueError`` where it is damaged or would fill the memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path} is a damaged zip archive: {error}") from None
    if len(entries) > _MAX_ENTRIES:
        raise ValueError(f"{path} must have at most {_MAX_ENTRIES} entries, got {len(entries)}: refused")
    methods = {entry.compress_type for entry in entries} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
    if methods:
        raise ValueError(f"{path} is compressed by a method that PyTorch does not write: refused")
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    inflated = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_DEFLATED)
    # Entries that overlap, which make a bomb without compression, come to more than the file.
    if stored > len(content) or inflated > _MAX_INFLATED:
        raise ValueError(
            f"{path} has {len(content):,} bytes and unpacks to {stored + inflated:,}: refused as a zip bomb"
        )
    return [entry.filename for entry in entries]
