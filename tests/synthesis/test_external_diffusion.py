"""Folders that diffusers wrote, with tiny random weights: the same images as the library's own pipelines."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from torchaug_gen import Synthesizer
from torchaug_gen.seeded import Seeded

diffusers = pytest.importorskip("diffusers")

BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


def unet(**options):
    with Seeded(0):
        return diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **BLOCKS, **options)


def vae():
    blocks = BLOCKS | {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    with Seeded(0):
        return diffusers.AutoencoderKL(latent_channels=4, sample_size=8, **blocks)


def transformer():
    with Seeded(0):
        net = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=1000,
            norm_num_groups=4,
        )
        # Its last layers begin at zero, which would hide everything before them.
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def latents(synthesizer, n):
    """Return the latents that a synthesizer draws from, by way of a network that returns them."""
    seen = []
    hook = synthesizer.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    synthesizer.sample(n, seed=5)
    hook.remove()
    return torch.cat(seen)[:n]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    diffusers.DiTPipeline(transformer(), vae(), diffusers.DDIMScheduler()).save_pretrained(folder)
    # The published pipelines of this kind name their classes so; saving one leaves the names out.
    index = json.loads((folder / "model_index.json").read_text())
    names = {str(label): f"class {label}" for label in range(1000)}
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": names}))
    return folder


def expected(pipeline, noise, monkeypatch, module, **options):
    """Return what the library's own pipeline makes of this noise."""
    monkeypatch.setattr(f"diffusers.pipelines.{module}.randn_tensor", lambda *_, **__: noise.clone())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(num_inference_steps=3, output_type="pt" if "dit" in module else "np", **options)[0]
    return images if isinstance(images, torch.Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2)


def test_a_pipeline_of_pixels_is_ddim(pixels, monkeypatch, untouched_rng):
    synthesizer = Synthesizer.load(pixels, steps=3, chunk=4)
    assert (synthesizer.latent_shape, synthesizer.image_shape) == ((1, 8, 8), (1, 8, 8))
    images, labels = synthesizer.sample(4, seed=5)
    assert labels is None
    pipeline = diffusers.DDIMPipeline.from_pretrained(pixels)
    noise = latents(synthesizer, 4)
    theirs = expected(pipeline, noise, monkeypatch, "ddim.pipeline_ddim", batch_size=4, return_dict=False)
    assert images.std() > 0.05
    torch.testing.assert_close(images, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [None, 4.0])
def test_a_class_conditional_pipeline_of_latents(conditional, monkeypatch, guidance):
    synthesizer = Synthesizer.load(conditional, steps=3, guidance=guidance, chunk=4)
    assert (synthesizer.latent_shape, synthesizer.image_shape) == ((4, 4, 4), (3, 8, 8))
    assert (synthesizer.num_classes, synthesizer.classes[7]) == (1000, "class 7")
    images, labels = synthesizer.sample(4, seed=5)
    others, _ = synthesizer.sample(4, labels=(labels + 1) % 1000, seed=5)
    assert not torch.equal(images, others)
    pipeline = diffusers.DiTPipeline.from_pretrained(conditional)
    options = {"class_labels": labels.tolist(), "guidance_scale": guidance or 1.0, "return_dict": False}
    theirs = expected(pipeline, latents(synthesizer, 4), monkeypatch, "dit.pipeline_dit", **options)
    torch.testing.assert_close(images, theirs, atol=1e-4, rtol=0)


def test_an_unet_with_classes_takes_labels(tmp_path):
    diffusers.DDIMPipeline(unet(num_class_embeds=3), diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    synthesizer = Synthesizer.load(tmp_path, steps=2)
    assert synthesizer.num_classes == 3
    first, _ = synthesizer.sample(labels=[0, 0])
    second, _ = synthesizer.sample(labels=[0, 2])
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_a_decoder_draws_from_latents(tmp_path):
    vae().save_pretrained(tmp_path)
    synthesizer = Synthesizer.load(tmp_path, chunk=4)
    assert (synthesizer.latent_shape, synthesizer.image_shape) == ((4, 4, 4), (3, 8, 8))
    images, _ = synthesizer.sample(4, seed=5)
    with torch.no_grad():
        theirs = vae().eval().decode(latents(synthesizer, 4) / 0.18215).sample
    torch.testing.assert_close(images, (theirs / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)
    wide = Synthesizer.load(tmp_path, image_shape=(3, 16, 8))
    assert (wide.latent_shape, wide.sample(1)[0].shape) == ((4, 8, 4), (1, 3, 16, 8))
    with pytest.raises(ValueError, match="multiples of 2"):
        Synthesizer.load(tmp_path, image_shape=(3, 9, 9))


def test_an_image_does_not_depend_on_what_is_drawn_with_it(pixels):
    synthesizer = Synthesizer.load(pixels, steps=2, chunk=4)
    images, _ = synthesizer.sample(6)
    assert torch.equal(synthesizer.sample(positions=[5, 1])[0], images[[5, 1]])


def test_every_file_can_be_pinned(pixels):
    files = [path for path in pixels.rglob("*") if path.is_file()]
    digests = {str(path.relative_to(pixels)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    Synthesizer.load(pixels, sha256=digests)
    with pytest.raises(ValueError, match="must have the SHA-256 0000"):
        Synthesizer.load(pixels, sha256=digests | {"unet/config.json": "0000"})
    with pytest.raises(ValueError, match=r"pass sha256=\{name: digest\}"):
        Synthesizer.load(pixels, sha256="0" * 64)


def copy(folder, tmp_path, file, **changes):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, r"DiTPipeline, got 'StableDiffusionPipeline'"),
        ("model_index.json", {"_class_name": ["evil", "Pipeline"]}, "must hold one of"),
        ("model_index.json", {"unet": ["evil_module", "UNet2DModel"]}, "must be diffusers' UNet2DModel"),
        ("unet/config.json", {"_class_name": "UNet3D"}, "must be of a UNet2DModel"),
        ("unet/config.json", {"block_out_channels": [10**12, 8]}, r"must be in -65536\.\.65536"),
        ("unet/config.json", {"layers_per_block": 10**9}, r"layers_per_block must be in -256\.\.256"),
        ("unet/config.json", {"block_out_channels": [16, 32]}, "UNet2DModel has conv_in"),
        ("unet/config.json", {"sample_size": 10**6}, "sample_size"),
        ("unet/config.json", {"sample_size": [8, 8, 8]}, "sample_size"),
        ("unet/config.json", {"norm_num_groups": 3}, "does not fit the network"),
        ("unet/config.json", {"block_out_channels": [32] * 2048}, r"block_out_channels must have at most 32 items"),
        ("unet/config.json", {"layers_per_block": 256, "block_out_channels": [32] * 8}, "at most 256 layers"),
        ("unet/config.json", {"sample_size": [4096, 4096]}, "at most 1048576 positions"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type must be null"),
        ("unet/config.json", {"class_embed_type": "identity"}, "class_embed_type must be null"),
        ("scheduler/scheduler_config.json", {"steps_offset": 20}, "times must be in 0..999.*steps_offset=20"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**6}, "num_train_timesteps"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "evil"}, "scheduler_config.json"),
    ],
    ids=str,
)
def test_a_bad_config_is_refused(pixels, tmp_path, file, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        Synthesizer.load(copy(pixels, tmp_path, file, **changes), trust=True)
    named = re.search(r"/\S*\.json", str(error.value))
    assert named is None or Path(named[0]).exists()


def test_a_pipeline_of_few_times_runs_through_them_all(pixels, tmp_path):
    folder = copy(pixels, tmp_path, "scheduler/scheduler_config.json", num_train_timesteps=20)
    synthesizer = Synthesizer.load(folder)
    assert synthesizer.net.times == list(range(19, -1, -1))
    assert synthesizer.sample(1)[0].isfinite().all()
    with pytest.raises(ValueError, match=r"steps must be an integer in 1\.\.20, got 21"):
        Synthesizer.load(folder, steps=21)


def test_options_are_checked(pixels):
    with pytest.raises(ValueError, match="steps must be an integer"):
        Synthesizer.load(pixels, steps=0)
    with pytest.raises(ValueError, match="guidance must be at least 1, and 1 for a UNet2DModel"):
        Synthesizer.load(pixels, guidance=2.0)


def test_pickled_weights_are_not_read(pixels, tmp_path):
    folder = copy(pixels, tmp_path, "model_index.json")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors is missing; pickled or split weights are not read"):
        Synthesizer.load(folder, trust=True)


def test_the_network_of_the_internet_is_not_asked(pixels, monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    Synthesizer.load(pixels, steps=1).sample(1)


def test_links_into_the_blobs_of_a_download_cache_are_followed_and_others_are_not(pixels, tmp_path):
    import shutil

    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    shutil.copytree(pixels, snapshot)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    weights.rename(blobs / "f00d")
    weights.symlink_to(blobs / "f00d")
    Synthesizer.load(snapshot)
    (blobs / "f00d").rename(tmp_path / "f00d")
    weights.unlink()
    weights.symlink_to(tmp_path / "f00d")
    with pytest.raises(ValueError, match="out of its folder: refused"):
        Synthesizer.load(snapshot)
