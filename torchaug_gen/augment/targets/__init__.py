"""What must move with an image: masks, boxes, keypoints, and the dicts that detection data sets keep them in."""

from torchaug_gen.augment.targets.boxes import WarpedBoxes, warp_boxes
from torchaug_gen.augment.targets.detection import warp_detection
from torchaug_gen.augment.targets.keypoints import WarpedKeypoints, warp_keypoints
from torchaug_gen.augment.targets.masks import warp_masks
from torchaug_gen.augment.targets.warp import Warp, composed

__all__ = [
    "Warp",
    "WarpedBoxes",
    "WarpedKeypoints",
    "composed",
    "warp_boxes",
    "warp_detection",
    "warp_keypoints",
    "warp_masks",
]
