"""TorchScript files."""

import io
import warnings
from pathlib import Path

import torch
from torch import nn

from torchaug_gen.synthesis.external.archives import check_archive

RISK = "a TorchScript program, which can read and write files and execute code"


def load_torchscript(content: bytes, path: Path) -> nn.Module:
    """Load a TorchScript file that the caller trusts.

    Raises:
        ValueError: an archive that is damaged or a bomb, or no program.
    """
    check_archive(content, path)
    try:
        with warnings.catch_warnings():
            # PyTorch 2.15 calls TorchScript deprecated; whoever has such a file knows no other way to load it.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            net: nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as TorchScript: {error}") from error
    return net
