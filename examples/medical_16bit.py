"""Grey images of 16 bits: a fundus photograph: ``python examples/medical_16bit.py``.

Scanners deliver more than 8 bits. Read as uint8 their faint structures are gone, so here the files stay as they are
until a *window* is chosen, as radiologists do, and images go through the loader floating: the fused engine computes in
float32 and rounds nowhere. The files are made of scikit-image's ``retina``, whose three channels together have more
levels than one of them; with files of your own, give ``--folder``.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from pictures import sheet, shown
from PIL import Image
from skimage.color import rgb2gray
from skimage.data import retina
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, fuse

SIDE = 224


class Scans(Dataset[Tensor]):
    """PNG or TIFF files of 16 bits, as float32 images ``(1, H, W)`` in [0, 1].

    Args:
        folder: of the files.
        low: the value that becomes black.
        high: the value that becomes white.
    """

    def __init__(self, folder: Path, *, low: int, high: int) -> None:
        self.paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".tif", ".tiff"))
        if not self.paths:
            raise FileNotFoundError(f"no .png or .tif files in {folder}")
        self._low, self._high = low, high

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        # Pillow has no 16-bit colour, and torch few operations on uint16: through int32 nothing is lost.
        levels = torch.from_numpy(np.array(Image.open(self.paths[index])).astype(np.int32))
        return ((levels - self._low) / (self._high - self._low)).clamp(0, 1)[None]


def write_scans(folder: Path) -> None:
    """Write the four quarters of the photograph as PNG files of 16 bits."""
    levels = (rgb2gray(retina()) * 65535).round().astype(np.uint16)[:1400, :1400]
    for number, quarter in enumerate(part for half in np.split(levels, 2) for part in np.split(half, 2, axis=1)):
        Image.fromarray(quarter[::2, ::2]).save(folder / f"quarter{number}.png")


def main() -> None:
    """Count the levels before and after, and draw augmented scans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of 16-bit PNG or TIFF files (default: made of a photograph)")
    parser.add_argument("--window", type=int, nargs=2, default=(2000, 50000), metavar=("LOW", "HIGH"))
    parser.add_argument("--out", type=Path, default=Path("medical_16bit.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            write_scans(Path(made))
        scans = Scans(arguments.folder or Path(made), low=arguments.window[0], high=arguments.window[1])
        steps = [
            v2.RandomResizedCrop((SIDE, SIDE), scale=(0.5, 1), antialias=True),
            v2.RandomRotation(180),
            v2.RandomHorizontalFlip(),
            # What differs between devices; a scan has no colour to jitter.
            v2.ColorJitter(brightness=0.1, contrast=0.1),
        ]
        loader = AugmentedLoader(DataLoader(scans, batch_size=4, shuffle=True), steps, fields={"images": ()})
        batches = [next(iter(loader)) for _ in range(3)]
        flipped = fuse(v2.RandomHorizontalFlip(p=1.0))(scans[0][None])
        before, after, rounded = (len(image.unique()) for image in (scans[0], flipped, (scans[0] * 255).round()))
        print(f"a scan has {before} levels of grey, and {after} once it is flipped; read as uint8 it has {rounded}")
        rows = [[shown(scans[index]) for index in range(min(len(scans), 4))]]
    rows += [[shown(image) for image in batch] for batch in batches]
    sheet(rows, arguments.out)
    print(f"scans, and what three epochs see of them, in {arguments.out}")


if __name__ == "__main__":
    main()
