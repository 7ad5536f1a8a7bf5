"""Drawing through a network: latents of any shape, and the ways to draw faster."""

import pytest
import torch
from foreign_files import CHUNK, SIZES, Generator, Unlabelled, write_exported
from torch import nn

from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.drawing import to_device


class Noisy(Generator):
    def forward(self, z, y):
        return super().forward(z, y) * torch.rand(())


def wrap(net=None, **options):
    return Synthesizer.from_module(net or Generator(), **SIZES | {"chunk": CHUNK} | options)


@pytest.mark.parametrize("latent_dim", [0, (), (4, 0), (-1,)])
def test_a_latent_needs_a_size(latent_dim):
    with pytest.raises(ValueError, match="latent_dim and chunk must be at least 1"):
        wrap(latent_dim=latent_dim)
    with pytest.raises(TypeError, match=r"latent_dim must be an integer, got 6\.5"):
        wrap(latent_dim=6.5)
    with pytest.raises(TypeError, match=r"chunk must be an integer, got 2\.5"):
        wrap(chunk=2.5)


def test_a_latent_of_the_wrong_shape_says_how_the_network_was_called():
    synthesizer = Synthesizer.from_module(Unlabelled(), latent_dim=6, image_shape=(1, 8, 8))
    with pytest.raises(RuntimeError) as caught:
        synthesizer.sample(2)
    assert "z (32, 6): check latent_dim=(6,)" in caught.value.__notes__[0]


def test_labels_that_a_network_wants_otherwise_are_explained():
    class OneHot(nn.Module):
        def forward(self, z, y):
            return torch.cat((z, y), dim=1)

    with pytest.raises((RuntimeError, IndexError)) as caught:
        wrap(OneHot()).sample(2)
    assert "one-hot, wrap it in a module" in caught.value.__notes__[0]


@pytest.mark.parametrize("count", [3, CHUNK, 3 * CHUNK])
def test_a_network_that_writes_into_its_input_changes_nothing_else(count):
    class Writing(Generator):
        def forward(self, z, y):
            images = super().forward(z, y)
            z.zero_()
            y += 100
            return images

    asked = torch.arange(count) % 5
    images, labels = wrap(Writing()).sample(labels=asked)
    expected, _ = wrap().sample(labels=asked)
    assert torch.equal(images, expected)
    assert torch.equal(labels, torch.arange(count) % 5)
    assert torch.equal(asked, labels)
    assert labels.data_ptr() != asked.data_ptr()
    synthesizer = wrap(Writing())
    latents = torch.ones(count, 6)
    synthesizer.render(latents, labels, seed=0, epoch=0, positions=torch.arange(count))
    assert latents.eq(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_given_latents_of_its_own(dtype, tmp_path):
    images, labels = wrap().sample(9)
    synthesizer = wrap(Generator().to(dtype))
    others, _ = synthesizer.sample(9, labels=labels)
    assert others.dtype is torch.float32
    torch.testing.assert_close(others, images, atol=0.02, rtol=0)
    if dtype is torch.float64:
        assert not torch.equal(others, images)
        synthesizer.save(tmp_path)
        assert torch.equal(Synthesizer.load(tmp_path, trust=True).sample(9)[0], others)


def test_an_exported_network_is_given_latents_of_the_type_that_it_was_traced_with(tmp_path):
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Generator().double()

        def forward(self, z, y):
            return self.net(z.double(), y).float()

    write_exported(tmp_path / "g.pt2", Inside())
    images, labels = wrap().sample(CHUNK)
    loaded = Synthesizer.load(tmp_path / "g.pt2", trust=True, num_classes=5)
    torch.testing.assert_close(loaded.sample(labels=labels)[0], images)


class Beside(Generator):
    def __init__(self, put):
        super().__init__()
        self.put = put

    def forward(self, z, y):
        return self.put(super().forward(z, y), z)


@pytest.mark.parametrize(
    "put",
    [
        lambda images, z: (images, z),
        lambda images, z: [None, images],
        lambda images, z: {"z": z, "images": images},
        lambda images, z: {"sample": images, "z": z},
    ],
)
def test_images_are_found_in_what_a_network_returns(put, tmp_path):
    images, _ = wrap().sample(4)
    assert torch.equal(wrap(Beside(put)).sample(4)[0], images)


def test_images_beside_latents_survive_saving(tmp_path):
    synthesizer = wrap(Beside(lambda images, z: (images, z * 2)))
    synthesizer.save(tmp_path)
    torch.testing.assert_close(Synthesizer.load(tmp_path, trust=True).sample(4)[0], synthesizer.sample(4)[0])


def test_a_dictionary_without_images_is_named():
    with pytest.raises(ValueError, match="got a dict of x, z without images or sample: wrap it to return its images"):
        wrap(Beside(lambda images, z: {"x": images, "z": z})).sample(1)


def test_inference_mode_is_used_where_a_network_says_that_it_draws_no_noise():
    modes = []

    class Spy(Generator):
        def forward(self, z, y):
            modes.append(torch.is_inference_mode_enabled())
            return super().forward(z, y)

    synthesizer = wrap(Spy())
    images, _ = synthesizer.sample(20)
    synthesizer.net.draws_noise = False
    same, _ = synthesizer.sample(20)
    assert modes == [False] * 3 + [True] * 3
    assert torch.equal(images, same)
    assert not same.is_inference()


@pytest.mark.parametrize(
    "options",
    [
        {"autocast": torch.bfloat16},
        {"channels_last": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_faster_ways_draw_nearly_the_same_images(options, untouched_rng):
    images, labels = wrap().sample(20, seed=4)
    synthesizer = wrap().accelerate(**options)
    faster, drawn = synthesizer.sample(20, seed=4)
    assert torch.equal(labels, drawn)
    torch.testing.assert_close(faster, images, atol=0.02 if "autocast" in options else 1e-5, rtol=0)
    part, _ = synthesizer.sample(positions=[3, 19], labels=labels[[3, 19]], seed=4)
    assert torch.equal(part, faster[[3, 19]])
    assert torch.equal(synthesizer.accelerate().sample(20, seed=4)[0], images)


def test_half_precision_is_really_used():
    images, _ = wrap().sample(20)
    assert not torch.equal(wrap().accelerate(autocast=torch.bfloat16).sample(20)[0], images)
    with pytest.raises(ValueError, match=r"autocast must be torch\.bfloat16, torch\.float16 or None, got torch\.int8"):
        wrap().accelerate(autocast=torch.int8)


def test_a_network_with_noise_of_its_own_is_not_compiled(untouched_rng):
    with pytest.raises(ValueError, match="draws no random numbers of its own"):
        wrap(Noisy()).accelerate(compile=True).sample(2)


def test_a_cuda_graph_needs_cuda():
    with pytest.raises(ValueError, match="cuda_graph needs the network on a CUDA device, got cpu"):
        wrap().accelerate(cuda_graph=True).sample(2)


def test_a_copy_does_not_take_what_was_compiled_along():
    import pickle

    synthesizer = wrap()
    synthesizer._fast = lambda z, labels: None
    assert pickle.loads(pickle.dumps(synthesizer))._fast is None


@pytest.mark.gpu
class TestCuda:
    @pytest.mark.parametrize(
        "options",
        [{}, {"cuda_graph": True}, {"channels_last": True}, {"compile": True}, {"compile": True, "cuda_graph": True}],
        ids=str,
    )
    def test_the_same_images_as_on_the_cpu(self, options):
        images, labels = wrap().sample(20, seed=4)
        synthesizer = wrap().to("cuda").accelerate(**options)
        faster, _ = synthesizer.sample(labels=labels, seed=4)
        torch.testing.assert_close(faster.cpu(), images, atol=2e-3, rtol=0)
        part, _ = synthesizer.sample(positions=[3, 19], labels=labels[[3, 19]], seed=4)
        assert torch.equal(part, faster[[3, 19]])

    def test_a_graph_sees_weights_that_change_in_place(self):
        synthesizer = wrap().to("cuda").accelerate(cuda_graph=True)
        synthesizer.sample(4)
        synthesizer.net.load_state_dict(Generator(2).state_dict())
        expected, _ = wrap(Generator(2)).to("cuda").sample(4)
        torch.testing.assert_close(synthesizer.sample(4)[0], expected, atol=1e-3, rtol=0)

    def test_a_network_with_noise_of_its_own_is_not_recorded(self):
        before = torch.cuda.get_rng_state()
        with pytest.raises(ValueError, match="draws no random numbers of its own"):
            wrap(Noisy()).to("cuda").accelerate(cuda_graph=True).sample(2)
        assert torch.equal(before, torch.cuda.get_rng_state())

    def test_two_streams_do_not_mix_their_chunks(self):
        synthesizer = wrap().to("cuda").accelerate(cuda_graph=True)
        expected = [synthesizer.sample(64, seed=seed)[0] for seed in (1, 2)]
        torch.cuda.synchronize()
        streams, drawn = [torch.cuda.Stream() for _ in expected], []
        for seed, stream in enumerate(streams, start=1):
            with torch.cuda.stream(stream):
                drawn.append(synthesizer.sample(64, seed=seed)[0])
        torch.cuda.synchronize()
        assert all(map(torch.equal, drawn, expected))

    def test_drawing_does_not_wait_for_the_device(self):
        synthesizer = wrap().to("cuda")
        positions, labels = torch.arange(20), torch.zeros(20, dtype=torch.int64, device="cuda")
        synthesizer.draw(labels, seed=0, epoch=0, positions=positions)
        torch.cuda.set_sync_debug_mode("error")
        try:
            synthesizer.draw(labels, seed=0, epoch=0, positions=positions)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_moving_to_the_cpu_keeps_the_tensor():
    tensor = torch.zeros(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


def test_from_module_takes_a_plain_stack_of_layers():
    net = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), Unlabelled())
    assert Synthesizer.from_module(net, latent_dim=6, image_shape=(1, 8, 8)).sample(2)[0].shape == (2, 1, 8, 8)
