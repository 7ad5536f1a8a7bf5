"""Somebody's generator, and the files that it can be in."""

import json
import warnings

import torch
from safetensors.torch import save_file
from torch import nn

from torchaug_gen.seeded import Seeded

SIZES = {"latent_dim": 6, "image_shape": (3, 8, 8), "num_classes": 5}
CHUNK = 8


class Generator(nn.Module):
    """A small class-conditional generator without noise of its own."""

    def __init__(self, seed=1):
        super().__init__()
        with Seeded(seed):
            self.table = nn.Embedding(5, 4)
            self.dense = nn.Linear(10, 3 * 8 * 8)
            self.norm = nn.BatchNorm2d(3)
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z, y):
        x = self.dense(torch.cat((z, self.table(y)), dim=1)).view(-1, 3, 8, 8)
        return self.conv(self.norm(x).relu()).tanh()


class Unlabelled(nn.Module):
    """A generator that begins with a transposed convolution, as DCGAN does."""

    def __init__(self, seed=1):
        super().__init__()
        with Seeded(seed):
            self.layers = nn.Sequential(nn.ConvTranspose2d(6, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1))

    def forward(self, z):
        return self.layers(z).tanh()


def inputs(chunk=CHUNK):
    return torch.zeros(chunk, 6), torch.zeros(chunk, dtype=torch.int64)


def write_safetensors(path, net=None, **sidecar):
    save_file({name: tensor.contiguous() for name, tensor in (net or Generator()).state_dict().items()}, path)
    if sidecar:
        path.with_suffix(".json").write_text(json.dumps(sidecar))


def write_state_dict(path, net=None):
    torch.save((net or Generator()).state_dict(), path)


def write_torchscript(path, net=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace((net or Generator()).eval(), inputs()).save(path)


def write_exported(path, net=None, chunk=CHUNK, dynamic=False):
    shapes = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}) if dynamic else None
    program = torch.export.export((net or Generator()).eval(), inputs(chunk), dynamic_shapes=shapes)
    torch.export.save(program, path)


def write_onnx(path, net=None, chunk=CHUNK, dynamic=False, external=False):
    options = {"dynamic_axes": {"z": {0: "n"}, "y": {0: "n"}, "images": {0: "n"}}} if dynamic else {}
    names = {"input_names": ["z", "y"], "output_names": ["images"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export((net or Generator()).eval(), inputs(chunk), path, dynamo=False, **names, **options)
    if external:
        import onnx

        model = onnx.load(path)
        path.unlink()
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
