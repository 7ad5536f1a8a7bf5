"""The networks of both GANs: shapes, conditioning, and how they begin."""

import pytest
import torch

from torchaug_gen.seeded import Seeded
from torchaug_gen.synthesis.gan.dcgan import DcganCriticNet, DcganGeneratorNet
from torchaug_gen.synthesis.gan.network import CriticNet, GeneratorNet, Residual, _binomial, _Down, _Enlarge

PAIRS = [(GeneratorNet, CriticNet), (DcganGeneratorNet, DcganCriticNet)]
SHAPES = [(1, 8, 8), (1, 28, 28), (1, 51, 50), (3, 40, 24), (4, 9, 31), (3, 128, 16), (2, 33, 65)]


def make(generator=GeneratorNet, critic=CriticNet, shape=(1, 12, 12), num_classes=3, width=4):
    with Seeded(1):
        return (
            generator(image_shape=shape, latent_dim=5, num_classes=num_classes, width=width),
            critic(image_shape=shape, num_classes=num_classes, width=width),
        )


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def awaken(net):
    """Give the last layers of residual branches, which begin at 0, some weight."""
    with torch.no_grad():
        for index, block in enumerate(module for module in net.modules() if isinstance(module, Residual)):
            block.expand.weight.copy_(randn(*block.expand.weight.shape, seed=index) * 0.1)
    return net


@pytest.mark.parametrize("pair", PAIRS, ids=["r3gan", "dcgan"])
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_is_drawn_and_judged(pair, num_classes, shape):
    generator, critic = make(*pair, shape, num_classes)
    labels = None if num_classes is None else torch.tensor([0, 2])
    z = randn(2, 5)
    drawn = generator.generate(z, labels)
    assert drawn.shape == (2, *shape)
    assert critic(drawn, labels).shape == (2,)
    images = generator.eval()(z, labels)
    assert 0 <= images.min() <= images.max() <= 1
    torch.testing.assert_close(images, ((generator.generate(z, labels) + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("pair", PAIRS, ids=["r3gan", "dcgan"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 29, 22), (1, 64, 16)])
def test_every_pixel_is_drawn_and_seen(pair, shape):
    generator, critic = (awaken(net) for net in make(*pair, shape, None))
    drawn = generator.generate(randn(16, 5))
    assert (drawn.var(dim=0) > 0).all()
    images = randn(4, *shape, seed=3).requires_grad_()
    (slope,) = torch.autograd.grad(critic(images).square().sum(), images)
    assert (slope.abs().amax(dim=0) > 0).all()


@pytest.mark.parametrize("pair", PAIRS, ids=["r3gan", "dcgan"])
def test_the_label_matters_to_both(pair):
    generator, critic = (net.eval() for net in make(*pair))
    z = randn(1, 5)
    first, second = torch.tensor([0]), torch.tensor([1])
    assert not torch.equal(generator(z, first), generator(z, second))
    image = generator.generate(z, first)
    assert not torch.equal(critic(image, first), critic(image, second))


def test_at_phase_0_the_label_does_not_matter():
    generator, critic = make()
    generator.phase.fill_(0)
    critic.phase.fill_(0)
    z, labels = randn(3, 5), torch.tensor([0, 1, 2])
    assert torch.equal(generator(z, labels), generator(z, labels.flip(0)))
    images = randn(3, 1, 12, 12)
    assert torch.equal(critic(images, labels), critic(images, labels.flip(0)))


def test_at_phase_one_half_the_score_is_between():
    _, critic = make()
    images, labels = randn(3, 1, 12, 12), torch.tensor([0, 1, 2])
    scores = []
    for phase in (0.0, 0.5, 1.0):
        critic.phase.fill_(phase)
        scores.append(critic(images, labels))
    torch.testing.assert_close(scores[1], (scores[0] + scores[2]) / 2)


def test_the_phase_is_part_of_what_is_saved():
    generator, _ = make()
    assert "phase" in generator.state_dict()


def test_a_residual_block_begins_as_the_identity():
    with Seeded(0):
        block = Residual(6, depth=4)
    features = randn(2, 6, 5, 5)
    assert torch.equal(block(features), features)
    assert not torch.equal(awaken(block)(features), features)


def test_signals_keep_their_scale_through_many_blocks():
    with Seeded(0):
        critic = awaken(CriticNet(image_shape=(1, 28, 28), width=8, blocks=12))
        generator = awaken(GeneratorNet(image_shape=(1, 28, 28), latent_dim=16, width=8, blocks=12))
    assert 0.05 < generator.generate(randn(64, 16)).std() < 20
    assert 0.05 < critic(randn(64, 1, 28, 28)).std() < 20


def test_halving_keeps_the_mean_and_removes_the_finest_stripes():
    channels = 3
    with Seeded(0):
        down = _Down(channels, channels)
    with torch.no_grad():
        down.widen.weight.copy_(torch.eye(channels)[..., None, None])
        down.widen.bias.zero_()
    flat = torch.ones(1, channels, 8, 8)
    torch.testing.assert_close(down(flat)[..., 1:-1, 1:-1], flat[..., :2, :2])
    stripes = flat.clone()
    stripes[..., ::2] = -1
    assert down(stripes)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_doubling_is_bilinear_interpolation():
    features = randn(1, 2, 6, 6)
    expected = torch.nn.functional.interpolate(features, scale_factor=2, mode="bilinear")[..., :12, :11]
    doubled = _Enlarge((12, 11))(features)
    assert doubled.shape == (1, 2, 12, 11)
    torch.testing.assert_close(doubled[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_every_resolution_draws_a_part_of_the_image():
    generator, _ = make(shape=(2, 33, 31))
    z, labels = randn(8, 5), torch.arange(8) % 3
    whole = generator.generate(z, labels)
    assert len(generator.to_image) == 4
    for draw in generator.to_image:
        weight = draw.weight.detach().clone()
        with torch.no_grad():
            draw.weight.zero_()
            assert not torch.equal(generator.generate(z, labels), whole)
            draw.weight.copy_(weight)
    assert torch.equal(generator.generate(z, labels), whole)


def test_the_sum_of_images_begins_with_the_variance_of_a_latent():
    with Seeded(0):
        generator = GeneratorNet(image_shape=(3, 64, 64), latent_dim=64)
    assert 0.2 < generator.generate(randn(64, 64)).std() < 2


@pytest.mark.parametrize(("side", "stride"), [(28, 1), (48, 1), (49, 2), (64, 2)])
def test_large_images_are_halved_by_the_first_layer(side, stride):
    critic = CriticNet(image_shape=(1, side, 40 if side < 40 else side), width=4)
    assert critic.from_image.stride == (stride, stride)


@pytest.mark.parametrize("generator", [GeneratorNet, DcganGeneratorNet])
def test_generators_say_that_latents_tell_everything(generator):
    net, _ = make(generator)
    assert net.draws_noise is False
    z, labels = randn(2, 5), torch.tensor([0, 1])
    assert torch.equal(net.eval()(z, labels), net(z, labels))


def test_the_filter_is_that_of_one_two_one_and_a_pair():
    line = torch.nn.functional.conv1d(torch.tensor([[[0, 1.0, 2, 1, 0]]]) / 4, torch.tensor([[[1.0, 1]]]) / 2)[0, 0]
    torch.testing.assert_close(_binomial(line), line[:, None] * line)


def test_initialisation_leaves_the_global_generator_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, second = make(), make()
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("generator", [GeneratorNet, DcganGeneratorNet])
def test_a_generator_is_rebuilt_from_its_arguments(generator):
    net, _ = make(generator, width=6)
    again = generator(image_shape=(1, 12, 12), latent_dim=5, num_classes=3, **net.arguments)
    again.load_state_dict(net.state_dict())
    z, labels = randn(2, 5), torch.tensor([0, 1])
    assert torch.equal(net.eval()(z, labels), again.eval()(z, labels))


@pytest.mark.parametrize("pair", PAIRS, ids=["r3gan", "dcgan"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1, 7, 12)}, r"at least 8, got \(1, 7, 12\)"),
        ({"shape": (0, 8, 8)}, "image_shape"),
        ({"shape": (8, 8)}, "image_shape"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"width": 2.0}, "width must be an integer"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_bad_sizes_are_named(pair, options, message):
    with pytest.raises(ValueError, match=message):
        make(*pair, **options)
