"""Policies are the libraries' own: their operations, chances and magnitudes, chosen for each sample."""

import warnings
from collections import Counter

import kornia.augmentation.auto as kornia_auto
import numpy as np
import pytest
import torch
from scipy import stats
from torchvision import transforms as v1
from torchvision.transforms import v2

from torchaug_gen.augment import policies
from torchaug_gen.augment.augmix import AugMix
from torchaug_gen.augment.backends import reference
from torchaug_gen.augment.choices import choose
from torchaug_gen.augment.composing import compose
from torchaug_gen.augment.drawing import draw
from torchaug_gen.augment.operation import Gate, Kind, Opaque, Operation, parameter_names

N = 6000
SIZE = (45, 67)
LIBRARY = {
    "RandAugment": v2.RandAugment,
    "TrivialAugmentWide": v2.TrivialAugmentWide,
    "AutoAugment": v2.AutoAugment,
    "AugMix": v2.AugMix,
}


def drawn(operations, *, n=N, size=SIZE, **changes):
    """Draw n samples: for each operation the rows of its parameters by name, and where it acts."""
    settings = {"seed": 3, "epoch": 1, "channels": 3} | changes
    table = draw(operations, positions=np.arange(n), sizes=np.tile(np.int32(size), (n, 1)), **settings)
    columns, start = [], 0
    for operation in operations:
        names = list(parameter_names(operation.kind, 3))
        columns.append({name: table[:, start + i] for i, name in enumerate(names)})
        start += len(names)
    assert start == table.shape[1]
    return columns


def magnitude(operation, columns):
    """Return the column that holds a policy operation's magnitude, in the units of torchvision's spaces."""
    name = operation.name.split(".")[-1]
    if name.startswith("Shear"):
        return np.tan(np.radians(columns["shear_" + name[-1].lower()]))
    if name.startswith("Translate"):
        return columns["translate_" + name[-1].lower()]
    if name == "Rotate":
        return columns["angle"]
    if name == "Posterize":
        return columns["bits"]
    if name == "Solarize":
        return columns["threshold"]
    return columns["factor"] - 1


def library_magnitudes(module, name, bins):
    values, signed = module._AUGMENTATION_SPACE[name]
    values = values(bins, *SIZE)
    return (None if values is None else values.double().numpy()), signed


def whole(name, values):
    # Where float32 ends just below a whole pixel, torchvision loses it: 15.999998 of 32 · 15 / 30. We don't.
    return np.trunc(np.round(values, 4)) if name.startswith("Translate") else values


@pytest.mark.parametrize("bins", [31, 10])
def test_trivial_augment_draws_from_torchvisions_space(bins):
    module = v2.TrivialAugmentWide(num_magnitude_bins=bins)
    operations = policies.read_torchvision(module)
    assert {operation.name.split(".")[1] for operation in operations} == set(module._AUGMENTATION_SPACE) - {"Identity"}
    for operation, columns in zip(operations, drawn(operations, n=N), strict=True):
        name = operation.name.split(".")[1]
        expected, signed = library_magnitudes(module, name, bins)
        if expected is None:
            continue
        acts = columns["active"] == 1
        values = magnitude(operation, columns)[acts]
        signs = np.array([-1.0, 1.0]) if signed else np.ones(1)
        allowed = whole(name, np.outer(signs, expected).ravel())
        nearest = np.abs(values[:, None] - allowed[None]).argmin(1)
        assert np.abs(values - allowed[nearest]).max() < 2e-6 * max(1, np.abs(allowed).max()), name
        # Equal values stand for as many bins as have them.
        shares = Counter(np.round(allowed, 4) + 0.0)
        counts = Counter(np.round(allowed[nearest], 4) + 0.0)
        keys = sorted(shares)
        observed = np.array([counts[key] for key in keys])
        share = np.array([shares[key] for key in keys]) / len(allowed)
        assert stats.chisquare(observed, share * observed.sum()).pvalue > 1e-4, name


@pytest.mark.parametrize("magnitude_step", [0, 9, 30, -1])
def test_rand_augment_takes_one_magnitude_and_a_fair_sign(magnitude_step):
    module = v2.RandAugment(num_ops=3, magnitude=magnitude_step)
    operations = policies.read_torchvision(module)
    assert len(operations) == 3 * 13
    for operation, columns in zip(operations, drawn(operations, n=2000), strict=True):
        name = operation.name.split(".")[1]
        expected, signed = library_magnitudes(module, name, 31)
        if expected is None:
            continue
        values = magnitude(operation, columns)[columns["active"] == 1]
        expected = whole(name, expected[magnitude_step])
        np.testing.assert_allclose(np.abs(values) if signed else values, expected, atol=3e-6)
        if signed and expected:
            assert stats.binomtest(int((values > 0).sum()), len(values)).pvalue > 1e-4


@pytest.mark.parametrize("width", [31, 32, 100, 224, 331, 480, 662, 993])
def test_translations_lose_their_decimals_as_torchvisions_do(width):
    module = v2.RandAugment(num_ops=1, magnitude=10)
    operations = [o for o in policies.read_torchvision(module) if o.name.endswith("TranslateX")]
    (columns,) = drawn(operations, n=200, size=(20, width))
    expected = int(float(module._AUGMENTATION_SPACE["TranslateX"][0](31, 20, width)[10]))
    acts = columns["active"] == 1
    assert acts.any()
    assert set(np.abs(columns["translate_x"][acts])) == {expected}


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("module", [v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix])
def test_operations_do_what_torchvisions_do(module, interpolation):
    """Run each operation of a policy with parameters it drew, and torchvision's with the magnitude they stand for."""
    module = module(interpolation=interpolation, fill=0.5)
    read = policies.read_torchvision(module)
    operations = list(read.operations if isinstance(read, AugMix) else read)[:12]
    image = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(1))
    image = torch.nn.functional.avg_pool2d(image.float(), 3, 1, 1).round() / 255
    key = {"seed": 3, "epoch": 1, "positions": np.arange(600)}
    sizes = np.tile(np.int32(SIZE), (600, 1))
    table = draw(operations, sizes=sizes, channels=3, **key)
    start = 0
    for operation in operations:
        names = list(parameter_names(operation.kind, 3))
        rows = table[:, start : start + len(names)]
        start += len(names)
        rows = rows[rows[:, 0] == 1][:6]
        tables = compose(
            [operation], rows, sizes=sizes[: len(rows)], channels=3, seed=0, epoch=0, positions=np.arange(len(rows))
        )
        results = reference.run(tables, image.expand(len(rows), -1, -1, -1))
        for row, got in zip(rows, results, strict=True):
            strength = magnitude(operation, dict(zip(names, row, strict=True))) if len(names) > 1 else 0.0
            expected = module._apply_image_or_video_transform(
                image, operation.name.split(".")[1], strength.item() if strength else 0.0, interpolation, module._fill
            )
            off = (got - expected).abs() > 1 / 255
            if operation.kind is Kind.AFFINE:  # which blends borders with the fill in its own way
                off[:, [0, -1]] = off[:, :, [0, -1]] = False
                covered = module._apply_image_or_video_transform(
                    torch.ones(3, *SIZE), operation.name.split(".")[1], strength.item(), interpolation, {"others": None}
                )
                off &= (covered > 0.999) | (covered < 0.001)
            # A row or two may lie half-way between pixels, either of which is the nearest one.
            assert off.float().mean() < (0.05 if interpolation == "nearest" else 0.001), (operation.name, strength)


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "AutoAugment", "AugMix"])
def test_each_sample_goes_through_one_operation_of_a_slot(name):
    read = policies.read_torchvision(LIBRARY[name]())
    operations = read.operations if isinstance(read, AugMix) else read
    columns = drawn(operations, n=2000)
    active = np.stack([column["active"] for column in columns], axis=1) == 1
    assert all(operation.choice for operation in operations)
    for choice in {operation.choice for operation in operations}:
        members = [i for i, operation in enumerate(operations) if operation.choice == choice]
        assert active[:, members].sum(1).max() == 1
    assert len({tuple(row) for row in active}) > 10  # samples differ


def test_operations_of_rand_augment_are_equally_likely_and_independent():
    operations = policies.read_torchvision(v2.RandAugment(num_ops=2))
    active = np.stack([column["active"] for column in drawn(operations)], axis=1) == 1
    picks = []
    for slot in range(2):
        part = active[:, 13 * slot : 13 * (slot + 1)]
        pick = np.where(part.any(1), part.argmax(1), 13)
        assert stats.chisquare(np.bincount(pick, minlength=14)).pvalue > 1e-4
        picks.append(pick)
    table = np.histogram2d(*picks, bins=14)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("library", [v1, v2])
@pytest.mark.parametrize("policy", list(v2.AutoAugmentPolicy))
def test_auto_augment_follows_its_sub_policies(library, policy):
    module = library.AutoAugment(policy)
    operations = policies.read_torchvision(module)
    sub_policies = v2.AutoAugment(policy)._policies
    expected = [(sub, slot) for slot in range(2) for sub in range(25)]
    assert len(operations) == 50
    active = np.stack([column["active"] for column in drawn(operations)], axis=1) == 1
    for index, (sub, slot) in enumerate(expected):
        name, probability, _ = sub_policies[sub][slot]
        assert operations[index].name == f"AutoAugment.{name}"
        assert stats.binomtest(int(active[:, index].sum()), N, probability / 25).pvalue > 1e-5
    # Both of a sub-policy act independently, those of different ones never together.
    together = active[:, :25].T.astype(int) @ active[:, 25:].astype(int)
    assert (together[~np.eye(25, dtype=bool)] == 0).all()
    for operation, columns in zip(operations, drawn(operations, n=500), strict=True):
        name, _, step = sub_policies[operations.index(operation) % 25][operations.index(operation) // 25]
        values, _ = library_magnitudes(v2.AutoAugment(policy), name, 10)
        if values is not None and (acts := columns["active"] == 1).any():
            got = np.abs(magnitude(operation, columns)[acts])
            np.testing.assert_allclose(got, np.abs(whole(name, values[step])), atol=3e-6)


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_aug_mix_draws_depth_and_magnitudes_as_torchvision(severity):
    module = v2.AugMix(severity=severity)
    mixture = policies.read_torchvision(module)
    assert (mixture.width, mixture.alpha) == (3, 1.0)
    columns = drawn(mixture.operations)
    active = np.stack([column["active"] for column in columns], axis=1) == 1
    depths = active.sum(1)
    assert stats.chisquare(np.bincount(depths, minlength=4)[1:]).pvalue > 1e-4
    for operation, column in zip(mixture.operations, columns, strict=True):
        name = operation.name.split(".")[1]
        values, signed = library_magnitudes(module, name, 10)
        if values is None:
            continue
        got = magnitude(operation, column)[column["active"] == 1]
        allowed = set(np.round(np.abs(whole(name, values[:severity])), 4) + 0.0)
        assert set(np.round(np.abs(got), 4) + 0.0) == allowed, name
        assert signed == (got < -1e-5).any() or allowed == {0.0}
    # v2 without some operations, and with a depth of its own.
    partial = policies.read_torchvision(v2.AugMix(all_ops=False, chain_depth=2))
    names = {operation.name.split(".")[1] for operation in partial.operations}
    assert names == set(v2.AugMix._PARTIAL_AUGMENTATION_SPACE)
    assert len(partial.operations) == 2 * 9


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_aug_mix_weights_are_beta_times_dirichlet(alpha):
    weights = AugMix("AugMix", (), 3, alpha).weights(seed=1, epoch=2, positions=np.arange(N))
    np.testing.assert_allclose(weights.sum(1), 1)
    assert stats.kstest(weights[:, 0], stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    inner = weights[:, 1:] / (1 - weights[:, :1])
    for chain in range(3):
        assert stats.kstest(inner[:, chain], stats.beta(alpha, 2 * alpha).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(weights[:, 0], inner[:, 0])[0, 1]) < 0.06


def test_aug_mix_weights_belong_to_positions(untouched_rng):
    mixture = AugMix("AugMix", (), 2, 0.5)
    keys = {"seed": 9, "epoch": 4}
    weights = mixture.weights(positions=np.arange(50), **keys)
    np.testing.assert_array_equal(mixture.weights(positions=np.arange(50)[::-1], **keys)[::-1], weights)
    assert not np.allclose(mixture.weights(positions=np.arange(50), seed=9, epoch=5), weights)
    assert len(set(mixture.chain_streams("s"))) == 2


def test_aug_mix_blends_by_its_weights():
    mixture = AugMix("AugMix", (), 2, 1.0)
    original, first, second = torch.rand(3, 4, 3, 5, 6)
    weights = mixture.weights(seed=0, epoch=0, positions=np.arange(4))
    blended = mixture.blend(original, [first, second], weights)
    table = torch.from_numpy(weights).float()[..., None, None, None]
    torch.testing.assert_close(blended, original * table[:, 0] + first * table[:, 1] + second * table[:, 2])
    with pytest.raises(ValueError, match="weights must be"):
        mixture.blend(original, [first], weights)


def test_unreadable_policies_say_why():
    bicubic = policies.read_torchvision(v2.RandAugment(interpolation=v2.InterpolationMode.BICUBIC))
    assert isinstance(bicubic, Opaque)
    assert "bicubic" in bicubic.reason
    beyond = policies.read_torchvision(v2.RandAugment(magnitude=31))
    assert isinstance(beyond, Opaque)
    assert "31" in beyond.reason
    assert policies.read_torchvision(v2.RandomInvert()) is None
    assert policies.read_kornia(v2.RandAugment()) is None


def test_choose_keeps_the_order_within_branches_and_shares_slots_between_them():
    a, b, c = (Operation(Kind.INVERT, name, (1.0,)) for name in "abc")
    chosen = choose([[a, b], [], [c]], stream="s", weights=[1, 1, 2])
    assert [o.name for o in chosen] == ["a", "c", "b"]
    assert [o.choice for o in chosen] == ["s.0", "s.0", "s.1"]
    assert chosen[1].gates == (Gate("s", 0.5, 1.0),)
    inner = choose([[a], [b]], stream="inner")
    outer = choose([inner, [c]], stream="outer")
    assert {o.choice for o in outer} == {"outer.0"}


# Kornia


def test_kornia_rand_augment_draws_without_replacement():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = kornia_auto.RandAugment(n=3, m=10)
    operations = policies.read_kornia(module)
    assert len(operations) == 3 * 15
    active = np.stack([column["active"] for column in drawn(operations)], axis=1).reshape(N, 3, 15) == 1
    assert (active.sum(2) == 1).all()
    assert (active.sum(1) <= 1).all()
    picks = active.argmax(2)
    for slot in range(3):
        assert stats.chisquare(np.bincount(picks[:, slot], minlength=15)).pvalue > 1e-4
    pairs = np.histogram2d(picks[:, 0], picks[:, 1], bins=15)[0]
    assert stats.chisquare(pairs[~np.eye(15, dtype=bool)]).pvalue > 1e-4


FACTORS = {
    "factor": ("brightness_factor", "contrast_factor", "saturation_factor", "sharpness"),
    "bits": ("bits_factor",),
    "threshold": ("thresholds",),
    "addition": ("additions",),
    "angle": ("degrees",),
    "shear_x": ("shear_x",),
    "shear_y": ("shear_y",),
    "translate_x": ("translate_x",),
    "translate_y": ("translate_y",),
}


@pytest.mark.parametrize("module", [
    kornia_auto.RandAugment(n=1, m=7), kornia_auto.RandAugment(n=1, m=29), kornia_auto.TrivialAugment(),
    kornia_auto.AutoAugment("imagenet"), kornia_auto.AutoAugment("cifar10"), kornia_auto.AutoAugment("svhn"),
], ids=["rand 7", "rand 29", "trivial", "imagenet", "cifar10", "svhn"])  # fmt: skip
def test_kornia_magnitudes_have_kornias_distribution(module):
    """Compare every operation's magnitude with Kornia's own, by Kolmogorov and Smirnov."""
    operations = policies.read_kornia(module)
    rows = draw(operations, seed=0, epoch=0, positions=np.arange(N), sizes=np.tile(np.int32(SIZE), (N, 1)), channels=3)
    wrappers = _wrappers(module)
    torch.manual_seed(0)
    start = 0
    for operation, (wrapper, magnitude) in zip(operations, wrappers, strict=True):
        names = list(parameter_names(operation.kind, 3))
        columns = {name: rows[:, start + i] for i, name in enumerate(names)}
        start += len(names)
        assert operation.name == type(wrapper).__name__
        acts = columns["active"] == 1
        chance = wrapper.op.p / len(list(module.children()))
        assert stats.binomtest(int(acts.sum()), N, chance).pvalue > 1e-5
        if wrapper._factor_name is None or not acts.any():
            continue
        params = wrapper.forward_parameters((2000, 3, *SIZE), mag=magnitude)
        ours = next(columns[name] for name, factors in FACTORS.items() if wrapper._factor_name in factors)[acts]
        theirs = params[wrapper._factor_name].double().numpy().ravel()
        if len(set(theirs)) <= 8:  # a few values: compare how often each comes
            values = sorted({*np.round(theirs, 3), *np.round(ours, 3)})
            table = [[(np.round(sample, 3) == value).sum() for value in values] for sample in (theirs, ours)]
            assert len(values) == 1 or stats.chi2_contingency(table).pvalue > 1e-5, (operation.name, values, table)
        else:
            assert stats.ks_2samp(ours, theirs).pvalue > 1e-5, operation.name


def _wrappers(module):
    """Yield the wrappers of Kornia's operations in the order in which we read them, with RandAugment's magnitude."""
    if isinstance(module, kornia_auto.RandAugment):
        rows = []
        for policy in module.children():
            wrapper = policy[0]
            magnitude = None
            if wrapper.magnitude_range is not None:
                low, high = wrapper.magnitude_range
                share = torch.full((2000,), module.m / 30)
                share = 1 - share if wrapper._factor_name == "bits_factor" else share
                magnitude = share * float(high - low) + low
                scales = {"translate_x": SIZE[1], "translate_y": SIZE[0]}
                magnitude = magnitude * scales.get(wrapper._factor_name, 1)
            rows.append((wrapper, magnitude))
        return rows
    branches = [list(policy.children()) for policy in module.children()]
    deepest = max(map(len, branches))
    return [(branch[slot], None) for slot in range(deepest) for branch in branches if slot < len(branch)]
