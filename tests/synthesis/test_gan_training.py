"""``train_gan`` on data so small that it takes seconds."""

import json
import re
from dataclasses import replace

import pytest
import torch
from small_training import bars, history, squares

from torchaug_gen.synthesis.gan.dcgan import DcganGeneratorNet
from torchaug_gen.synthesis.gan.diffaugment import OPERATIONS
from torchaug_gen.synthesis.gan.network import GeneratorNet
from torchaug_gen.synthesis.gan.training import (
    RECIPES,
    GanConfig,
    GanRecipe,
    betas,
    class_phase,
    learning_rate,
    train_gan,
)
from torchaug_gen.synthesis.synthesizer import Synthesizer
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.recipe import Batch

TINY = GanConfig(steps=4, batch_size=4, latent_dim=4, width=4, checkpoint_every=2, grid_every=0)


def train(data, config, out, **options):
    return train_gan(data, config, out=out, progress=False, **options)


def nothing(parameters):
    """Reduce over one process."""


def take(images, count, start=0):
    positions = torch.arange(start, start + count)
    rows = positions % len(images)
    return Batch(images.images[rows].float() / 255, images.labels[rows], positions)


def steps(recipe, images, count, start=0, reduce=nothing):
    config = recipe.config
    return [
        recipe.step(take(images, config.batch_size, step * config.batch_size), step, reduce=reduce)
        for step in range(start, start + count)
    ]


def weights(recipe):
    return {name: tensor.clone() for name, tensor in recipe.networks.state_dict().items()}


def plenty(n=10_000, classes=None):
    images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    return TrainingImages(images, None if classes is None else torch.arange(n) % classes, classes)


@pytest.mark.parametrize(("recipe", "rate"), [("r3gan", 1e-3), ("dcgan", 2e-3)])
def test_classes_come_out_right(tmp_path, recipe, rate):
    config = replace(
        TINY, recipe=recipe, steps=150, batch_size=16, width=8, augment=(), transition=0, learning_rate=rate
    )
    synthesizer = train(bars(), replace(config, checkpoint_every=150), tmp_path)
    images, labels = synthesizer.sample(60)
    upper, lower = images[:, 0, :6].mean(dim=(1, 2)), images[:, 0, 6:].mean(dim=(1, 2))
    bright = (upper - lower).abs() > 0.1
    assert bright.sum() > 15
    right = torch.where(labels == 0, upper > lower, lower > upper)
    assert right[bright].float().mean() > 0.9
    lines = history(tmp_path)
    assert {"critic", "generator", "penalty", "gap"} <= set(lines[0])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_seed_gives_the_same_weights_and_global_generators_stay(tmp_path, recipe):
    files = []
    for name, noise, seed in (("a", 1, 0), ("b", 2, 0), ("c", 2, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        train(bars(), replace(TINY, recipe=recipe, seed=seed), tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before)
        files.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("recipe", RECIPES)
def test_resuming_gives_the_weights_of_a_training_without_a_break(tmp_path, recipe):
    whole = replace(
        TINY, recipe=recipe, beta2=0.9, learning_rate_decay=4.0, transition=0.5 if recipe == "r3gan" else None
    )
    images = squares()
    for stop in (1, 3):
        unbroken, broken = GanRecipe(images, whole), GanRecipe(images, whole)
        steps(unbroken, images, 4)
        steps(broken, images, stop)
        fresh = GanRecipe(images, whole)
        fresh.networks.load_state_dict(weights(broken))
        for name, optimizer in fresh.optimizers.items():
            optimizer.load_state_dict(broken.optimizers[name].state_dict())
        steps(fresh, images, 4 - stop, start=stop)
        for name, tensor in unbroken.networks.state_dict().items():
            assert torch.equal(tensor, fresh.networks.state_dict()[name]), name
    assert train(bars(), whole, tmp_path).sample(1)[0].isfinite().all()
    longer = train(bars(), replace(whole, steps=6, transition=whole.transition), tmp_path, resume=True)
    assert longer.sample(1)[0].isfinite().all()


def test_gradients_are_reduced_before_each_optimiser_steps():
    images = squares()
    recipe = GanRecipe(images, TINY)
    calls = []

    def reduce(parameters):
        parameters = list(parameters)
        calls.append([p.grad is not None for p in parameters])
        for p in parameters:
            p.grad.zero_()

    before = weights(recipe)
    steps(recipe, images, 1, reduce=reduce)
    assert [len(call) for call in calls] == [len(list(net.parameters())) for net in (recipe.critic, recipe.generator)]
    assert all(map(all, calls))
    # With β₁ = 0 and no gradient nothing may move.
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(recipe).items() if "phase" not in name)


def test_penalties_come_at_their_steps_and_count_for_the_others():
    images = squares()
    recipe = GanRecipe(images, replace(TINY, penalty_every=3, gamma=1.0))
    penalties = [float(losses["penalty"]) for losses in steps(recipe, images, 7)]
    assert [penalty > 0 for penalty in penalties] == [True, False, False, True, False, False, True]
    # A single critic step from the same weights: three times the penalty, three times its gradient.
    gradients = {}
    for every in (1, 3):
        recipe = GanRecipe(images, replace(TINY, penalty_every=every, gamma=1e6, gamma_decay=1.0))
        caught = []
        steps(recipe, images, 1, reduce=lambda ps, caught=caught: caught.append([p.grad.clone() for p in ps]))
        gradients[every] = caught[0]
    first, third = (torch.cat([g.flatten() for g in gradients[every]]) for every in (1, 3))
    torch.testing.assert_close(third / 3, first, rtol=1e-3, atol=1e-3 * float(first.abs().max()))


def test_gamma_decays_geometrically():
    images = squares()
    config = replace(TINY, gamma=8.0, gamma_decay=16.0, penalty_every=1)
    ratios = []
    for step in (0, 2):
        recipe, plain = GanRecipe(images, config), GanRecipe(images, replace(config, gamma_decay=1.0))
        ratios.append(float(steps(recipe, images, 1, start=step)[0]["penalty"]))
        ratios[-1] /= float(steps(plain, images, 1, start=step)[0]["penalty"])
    assert ratios == pytest.approx([1, 1 / 4])


def test_the_learning_rate_falls_along_a_half_cosine():
    config = replace(TINY, steps=8, learning_rate=8e-3, learning_rate_decay=4.0)
    assert [learning_rate(config, step) for step in (0, 4, 8)] == pytest.approx([8e-3, 5e-3, 2e-3])
    assert learning_rate(replace(config, learning_rate_decay=1.0), 3) == 8e-3
    trained = GanRecipe(squares(), config)
    steps(trained, squares(), 5)
    for optimizer in trained.optimizers.values():
        assert [group["lr"] for group in optimizer.param_groups] == [learning_rate(config, 4)]


@pytest.mark.parametrize(("recipe", "first", "last"), [("r3gan", 0.0, 0.99), ("dcgan", 0.5, 0.999)])
def test_beta2_rises_along_a_half_cosine(recipe, first, last):
    images = squares()
    config = replace(TINY, recipe=recipe, steps=8, beta2=0.9)
    assert [betas(config, step)[1] for step in (0, 4, 8)] == pytest.approx([0.9, (0.9 + last) / 2, last])
    assert betas(replace(config, beta2=None), 3) == (first, last)
    trained = GanRecipe(images, config)
    for step in range(3):
        steps(trained, images, 1, start=step)
        for optimizer in trained.optimizers.values():
            assert [group["betas"] for group in optimizer.param_groups] == [betas(config, step)]
    constant = GanRecipe(images, replace(config, beta2=None))
    steps(constant, images, 3)
    assert any(not torch.equal(t, constant.networks.state_dict()[n]) for n, t in weights(trained).items())


def test_without_gamma_there_is_no_penalty():
    images = squares()
    assert all(losses["penalty"] == 0 for losses in steps(GanRecipe(images, replace(TINY, gamma=0)), images, 2))


def test_the_class_is_phased_in():
    images = squares()
    config = replace(TINY, steps=8, transition=0.5)
    assert [class_phase(config, step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert class_phase(replace(config, transition=0.0), 0) == 1
    recipe = GanRecipe(images, config)
    steps(recipe, images, 3)
    assert recipe.generator.phase == recipe.critic.phase == recipe.averaged.phase == 0.5
    # While the class does not count, its embeddings have no gradient.
    fresh, caught = GanRecipe(images, config), []
    steps(fresh, images, 1, reduce=lambda ps: caught.append(list(ps)))
    assert not fresh.generator.embedding.weight.grad.any()
    assert not fresh.critic.embedding.weight.grad.any()


def test_the_average_follows_the_generator():
    images = squares()
    exact = GanRecipe(images, replace(TINY, ema_images=0))
    steps(exact, images, 3)
    for mine, theirs in zip(exact.averaged.parameters(), exact.generator.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    slow = GanRecipe(images, replace(TINY, ema_images=10**6))
    before = weights(slow)
    steps(slow, images, 60)
    # The half-life is a twentieth of what was seen: the average has left the beginning behind.
    now = weights(slow)
    key = "basis.weight"
    start, end, mean = before[f"generator.{key}"], now[f"generator.{key}"], now[f"averaged.{key}"]
    assert 0 < (mean - end).norm() < 0.5 * (start - end).norm()


@pytest.mark.parametrize(
    ("images", "augment", "transition"),
    [
        (plenty(), (), 0),
        (plenty(9_999), OPERATIONS, 0),
        (plenty(classes=100), (), 0),
        (plenty(classes=101), (), 0.5),
        (squares(), OPERATIONS, 0.5),
    ],
)
def test_presets_look_at_the_data(images, augment, transition):
    resolved = GanConfig().resolved(images)
    assert (resolved.augment, resolved.transition) == (augment, transition)
    assert GanConfig(augment=("cutout",), transition=0.25).resolved(images).transition == 0.25
    assert GanConfig(augment=("cutout",)).resolved(images).augment == ("cutout",)
    classic = GanConfig(recipe="dcgan").resolved(images)
    assert (classic.gamma, classic.augment, classic.transition, classic.ema_images) == (0, (), 0, 0)
    assert None not in [getattr(resolved, name) for name in ("learning_rate", "latent_dim", "width", "gamma")]


def test_the_preset_for_a_gpu_can_be_changed():
    config = GanConfig.for_gpu(image_size=64, width=64)
    assert (config.device, config.width, config.image_size) == ("cuda", 64, 64)
    assert config.batch_size > GanConfig().batch_size


def test_mirrored_images_are_images_flipped_left_to_right():
    images = squares()
    recipe = GanRecipe(images, replace(TINY, mirror=True, batch_size=24))
    batch = take(images, 24)
    mirrored = recipe._mirrored(batch.images, batch.positions)
    same = (mirrored == batch.images).flatten(1).all(dim=1)
    flipped = (mirrored == batch.images.flip(3)).flatten(1).all(dim=1)
    assert (same ^ flipped).all()
    assert 4 < same.sum() < 20


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"critic": 0.3, "generator": 1.2, "gap": 1.0}, None),
        ({"critic": 1e-6, "generator": 14.0, "gap": 14.0}, "tells every image apart.*raise gamma"),
        ({"critic": 9.0, "generator": 1e-6, "gap": -9.0}, "takes every synthetic image for real"),
    ],
)
def test_a_network_that_has_won_is_reported(losses, message):
    verdict = GanRecipe(squares(), TINY).verdict(losses, 100)
    assert verdict is None if message is None else re.search(message, verdict)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 17), (4, 33, 12)])
def test_any_shape_is_learned(tmp_path, recipe, shape):
    images, labels = train(bars(shape, 6), replace(TINY, recipe=recipe, steps=2), tmp_path).sample(3)
    assert images.shape == (3, *shape)
    assert labels.shape == (3,)


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_image_and_no_labels(tmp_path, recipe):
    synthesizer = train(bars(n=1, labels=False), replace(TINY, recipe=recipe, steps=2, batch_size=2), tmp_path)
    assert synthesizer.num_classes is None
    assert synthesizer.sample(3)[1] is None


@pytest.mark.parametrize(("recipe", "net"), [("r3gan", GeneratorNet), ("dcgan", DcganGeneratorNet)])
def test_what_is_returned_is_what_the_folder_holds(tmp_path, recipe, net):
    synthesizer = train(bars((3, 14, 10)), replace(TINY, recipe=recipe), tmp_path)
    loaded = Synthesizer.load(tmp_path)
    assert isinstance(loaded.net, net)
    assert torch.equal(synthesizer.sample(10)[0], loaded.sample(10)[0])
    assert json.loads((tmp_path / "training.json").read_text())["recipe"] == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_half_precision_gives_finite_losses_and_penalties_in_full(recipe):
    images = squares()
    trained = GanRecipe(images, replace(TINY, recipe=recipe))
    with torch.autocast("cpu", torch.bfloat16):
        losses = steps(trained, images, 2)
    for values in losses:
        assert all(value.dtype is torch.float32 and value.isfinite() for value in values.values())
    assert all(tensor.isfinite().all() for tensor in weights(trained).values())
    if recipe == "r3gan":
        exact = steps(GanRecipe(images, TINY), images, 1)[0]
        torch.testing.assert_close(losses[0]["penalty"], exact["penalty"], rtol=0.05, atol=0)


def test_images_that_are_all_nan_are_refused(tmp_path):
    data = torch.utils.data.TensorDataset(torch.full((3, 1, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        train(data, TINY, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "stylegan"}, "recipe must be one of r3gan, dcgan, got 'stylegan'"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"latent_dim": 2.5}, "latent_dim must be an integer, got 2.5"),
        ({"blocks": 0}, "blocks"),
        ({"penalty_every": 0}, "penalty_every"),
        ({"ema_images": -1}, "ema_images must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite, got 0.0"),
        ({"learning_rate_decay": 0.5}, "learning_rate_decay must be at least 1"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"gamma": -1.0}, "gamma must be at least 0"),
        ({"gamma_decay": 0.5}, "gamma_decay must be at least 1"),
        ({"transition": 1.5}, r"transition must be in \[0, 1\], got 1.5"),
        ({"augment": ("flip",)}, "operations must be some of"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_fields_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GanConfig(**options)


@pytest.mark.parametrize("options", [{"gamma": 1.0}, {"transition": 0.5}])
def test_the_classic_takes_neither_penalties_nor_a_transition(options):
    with pytest.raises(ValueError, match="gamma and transition must be 0 with recipe='dcgan'"):
        GanRecipe(squares(), replace(TINY, recipe="dcgan", **options))
