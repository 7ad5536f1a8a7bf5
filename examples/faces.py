"""Faces with landmarks: ``python examples/faces.py``.

An astronaut and a cat, photographs of scikit-image, with eyes and nose marked. Landmarks move with the image, also
where they leave it; a flip makes a left eye a right one, and so the example swaps their names.
"""

import argparse
from pathlib import Path
from typing import TypedDict

import torch
from pictures import BLUE, GREEN, RED, sheet, shown
from skimage.data import astronaut, chelsea
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, fuse

SIDE = 192
# Left and right as one looks at the picture: the eyes, then the nose; x and y of pixels.
LANDMARKS = (
    [[204.0, 101.0], [247.0, 103.0], [222.0, 127.0]],
    [[172.0, 111.0], [313.0, 134.0], [266.0, 243.0]],
)
COLOURS = (GREEN, BLUE, RED)


class Face(TypedDict):
    """An image ``(3, H, W)`` uint8, and its landmarks ``(3, 2)``."""

    image: Tensor
    landmarks: Tensor


class Faces(Dataset[Face]):
    """The two faces, cut out of their photographs."""

    def __init__(self) -> None:
        boxes = ((0, 256, 100, 356), (0, 300, 76, 376))
        self._faces: list[Face] = []
        for photograph, landmarks, (top, bottom, left, right) in zip(
            (astronaut(), chelsea()), LANDMARKS, boxes, strict=True
        ):
            image = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[:, top:bottom, left:right]
            self._faces.append({"image": image, "landmarks": torch.tensor(landmarks) - torch.tensor([left, top])})

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> Face:
        return self._faces[index]


def collate(faces: list[Face]) -> dict[str, list[Tensor]]:
    """Return the images, whose sizes differ, and landmarks as lists."""
    return {"image": [face["image"] for face in faces], "landmarks": [face["landmarks"] for face in faces]}


def named(landmarks: Tensor) -> Tensor:
    """Return landmarks ``(3, 2)`` with the eye on the left first, as a model is taught to tell them."""
    # Seen from between the eyes the nose is below; a mirrored face has it on the other side of the line through them.
    first, second, nose = landmarks
    across, down = second - first, nose - first
    mirrored = across[0] * down[1] - across[1] * down[0] < 0
    return landmarks[[1, 0, 2]] if mirrored else landmarks


def main() -> None:
    """Draw augmented faces with their landmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="how many to draw (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("faces.png"), help="picture (default: %(default)s)")
    arguments = parser.parse_args()
    data = Faces()
    steps = fuse(
        [
            v2.RandomResizedCrop((SIDE, SIDE), scale=(0.6, 1), ratio=(0.9, 1.1)),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(25),
            v2.RandomPerspective(0.2),
            v2.ColorJitter(0.3, 0.3, 0.3, 0.05),
        ]
    )
    loader = AugmentedLoader(
        DataLoader(data, batch_size=2, collate_fn=collate), steps, fields={"images": "image", "keypoints": "landmarks"}
    )
    columns = [[shown(face["image"] / 255, points=face["landmarks"], colors=COLOURS) for face in data]]
    for _ in range(arguments.epochs):
        batch = next(iter(loader))
        pairs = zip(batch["image"], batch["landmarks"], strict=True)
        columns.append([shown(image, points=named(landmarks), colors=COLOURS) for image, landmarks in pairs])
    sheet([[*column] for column in zip(*columns, strict=True)], arguments.out)
    print(f"two faces, and {arguments.epochs} epochs of them, with left eye, right eye and nose, in {arguments.out}")


if __name__ == "__main__":
    main()
