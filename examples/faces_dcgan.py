"""Faces from somebody else's DCGAN: ``python examples/faces_dcgan.py``.

The package, ``pip install --no-deps gan-face-generate``, ships a generator for 64×64 faces that was trained on
DigiFace1M (MIT licence). Its network begins with a transposed convolution and so takes latents (N, 100, 1, 1); its
weights are in a checkpoint under a name of their own. Nothing but tensors is unpickled.
"""

import argparse
from pathlib import Path

import gan_face_generate
from gan_face_generate.models import Generator
from torchvision.utils import save_image

from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.network import NetworkSynthesizer


def faces() -> NetworkSynthesizer:
    """Return the package's trained generator as a synthesizer of (3, 64, 64) images."""
    return Synthesizer.load(
        Path(gan_face_generate.__file__).with_name("weights.tar"),
        net=Generator(0, 3, 100, 64),
        key="netG_state_dict",
        latent_dim=(100, 1, 1),
        image_shape=(3, 64, 64),
    )


def main() -> None:
    """Draw faces into a PNG file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64, help="how many faces (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other faces (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("faces.png"), help="file to write (default: %(default)s)")
    arguments = parser.parse_args()
    images, _ = faces().sample(arguments.n, seed=arguments.seed)
    save_image(images, arguments.out)
    print(f"{len(images)} faces in {arguments.out}")


if __name__ == "__main__":
    main()
