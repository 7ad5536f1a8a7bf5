"""Digits from somebody else's conditional WGAN: ``python examples/digits_cwgan.py generator.pth``.

The file is a state dict of a class-conditional WGAN-GP for MNIST by HayatoHongo (MIT licence). Weights do not say how
to run them, so the network is written down here, with the names that its author gave the layers.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.network import NetworkSynthesizer


class Generator(nn.Module):
    """The author's generator: 10 numbers and a label become a digit (1, 28, 28) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(10, 10)
        self.l1 = nn.Sequential(nn.Linear(20, 128 * 7 * 7))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(128),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128, 0.8),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64, 0.8),
            nn.ReLU(),
            nn.Conv2d(64, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return images (N, 1, 28, 28) of latents (N, 10) and labels (N,)."""
        features = self.l1(torch.cat((z, self.label_emb(labels)), dim=1))
        images: Tensor = self.conv_blocks(features.view(-1, 128, 7, 7))
        return images


def digits(path: Path) -> NetworkSynthesizer:
    """Return the trained generator in a file as a synthesizer of (1, 28, 28) images of ten classes."""
    return Synthesizer.load(path, net=Generator(), latent_dim=10, image_shape=(1, 28, 28), num_classes=10)


def main() -> None:
    """Draw a row of digits of each class into a PNG file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the author's generator.pth")
    parser.add_argument("--seed", type=int, default=0, help="other digits (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    labels = torch.arange(10).repeat_interleave(8)
    images, _ = digits(arguments.path).sample(labels=labels, seed=arguments.seed)
    save_image(images, arguments.out)
    print(f"{len(images)} digits in {arguments.out}")


if __name__ == "__main__":
    main()
