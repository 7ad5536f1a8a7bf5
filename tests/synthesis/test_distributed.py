"""Two processes train what one would."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import SmallRecipe, SmallSettings, bars, history, squares
from torch import nn

from torchaug_gen.synthesis.gan.training import RECIPES, GanConfig, train_gan
from torchaug_gen.synthesis.training import distributed
from torchaug_gen.synthesis.training.loop import train
from torchaug_gen.synthesis.vae.training import VaeConfig, train_vae

HERE = Path(__file__).parent
VAE = VaeConfig(steps=6, batch_size=8, latent_dim=4, width=4, checkpoint_every=3, grid_every=4, free_bits=0.05)
GAN = GanConfig(steps=6, batch_size=8, latent_dim=4, width=4, checkpoint_every=6, grid_every=0, mirror=True)
SMALL = SmallSettings()


def vae(out, **options):
    train_vae(bars(), VAE, out=out, progress=False, **options)


def gan(out, recipe, **options):
    train_gan(bars(), replace(GAN, recipe=recipe), out=out, progress=False, **options)


def small(out, settings=SMALL, **options):
    recipe = SmallRecipe(squares(), settings)
    train(recipe, recipe.images, settings, out=out, progress=False, **options)


def two_processes(code, *, expected=0):
    """Run code in two processes that talk over gloo, and return what they wrote to stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"from test_distributed import *\n{code}"],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=HERE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [expected] * 2, "\n".join(said)
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train with two processes, all in one go since starting them is what takes long."""
    out = tmp_path_factory.mktemp("two")
    two_processes(
        f"""
out = Path({str(out)!r})
device = torch.device("cpu")
with distributed.processes(device) as share:
    rank = share.index
    vae(out / "vae")
    gan(out / "r3gan", "r3gan")
    gan(out / "dcgan", "dcgan")
    small(out / "small", SmallSettings(steps=8))
    small(out / "small", resume=True)

    # A stream that splits itself gives each process its part, and all of them the whole.
    from torchaug_gen import ShardStream, write_shards
    from torchaug_gen.synthesis.training.data import read_images
    if rank == 0:
        write_shards(list(bars((3, 16, 16), n=10)), out / "shards", samples_per_shard=3, image_format="png")
    distributed.wait_for_all()
    stream = ShardStream(out / "shards", fields=("png", "cls"))
    assert len(list(stream)) < 10
    read = read_images(stream)
    assert len(read) == 10
    torch.save(read.images, out / f"read-{{rank}}.pt")

    net = nn.Linear(1200, 2000)
    torch.nn.init.constant_(net.weight, 1), torch.nn.init.constant_(net.bias, 2)
    distributed.check_equal(net)
    extra = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    net.weight.grad, extra.grad = torch.full_like(net.weight, rank), torch.full_like(extra, 10.0 * rank)
    distributed.average_gradients([net.bias, net.weight, extra])
    assert net.bias.grad is None and extra.grad.tolist() == [5.0] * 3
    assert (net.weight.grad == 0.5).all()
    assert distributed.mean(torch.tensor(float(rank), requires_grad=True)).item() == 0.5
    assert distributed.from_first(f"rank {{rank}}") == "rank 0"
    assert distributed.gathered(rank) == [0, 1]
    with torch.no_grad():
        net.bias[3] += rank * 1e-6
    for message, call in (
        ("all processes must have the same bias, but rank 1", lambda: distributed.check_equal(net)),
        ("divisible by the 2 processes", lambda: small(out / "odd", SmallSettings(batch_size=3))),
    ):
        try:
            call()
        except (RuntimeError, ValueError) as error:
            assert message in str(error), error
        else:
            raise AssertionError(message)
"""
    )
    return out


def close(one, other, file="weights.safetensors"):
    one, other = load_file(one / file), load_file(other / file)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=2e-3, atol=2e-5, msg=lambda m, name=name: name + m)


def test_two_processes_train_the_small_recipe_that_one_does(trained, tmp_path):
    small(tmp_path)
    close(trained / "small", tmp_path)
    for two, one in zip(history(trained / "small"), history(tmp_path), strict=True):
        assert two["step"] == one["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_two_processes_train_the_vae_that_one_does(trained, tmp_path):
    vae(tmp_path)
    close(trained / "vae", tmp_path)
    for two, one in zip(history(trained / "vae"), history(tmp_path), strict=True):
        assert two["kl"] == pytest.approx(one["kl"], rel=1e-3)
        assert two["mse"] == pytest.approx(one["mse"], rel=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_train_the_gan_that_one_does(trained, tmp_path, recipe):
    gan(tmp_path, recipe)
    # The checkpoint holds the critic and the optimisers too.
    for file in ("weights.safetensors", "checkpoints/step-00000006.safetensors"):
        close(trained / recipe, tmp_path, file)


def test_a_stream_that_splits_itself_is_read_whole(trained):
    one, other = (torch.load(trained / f"read-{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one, other)


def test_one_process_changes_nothing():
    assert distributed.share() == distributed.Share(0, 1)
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    distributed.average_gradients([parameter])
    assert parameter.grad.tolist() == [3, 3]
    assert distributed.mean(torch.tensor(4.0)) == 4
    assert distributed.gathered("x") == ["x"]
    assert distributed.from_first("x") == "x"
    distributed.check_equal(nn.Linear(2, 2))
    distributed.wait_for_all()
