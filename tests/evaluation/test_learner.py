import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer
from torchaug_gen.evaluation.learner import (
    Learned,
    LearnerConfig,
    Score,
    SeparateNorm,
    learn,
    learn_and_score,
    score,
    score_logits,
)

SHAPE = (1, 16, 16)


def stripes(n, *, noise=0.1, seed=0):
    """Return images with horizontal (class 0) or vertical (class 1) stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    lines = (torch.arange(16) // 2 % 2).float() * 0.6 + 0.2
    images = torch.where((labels == 0)[:, None, None], lines[None, :, None], lines[None, None, :])[:, None]
    return (images + noise * torch.rand(n, *SHAPE, generator=generator)).clamp(0, 1), labels


def loader(data, **options):
    return AugmentedLoader(DataLoader(TensorDataset(*data), 16, shuffle=True), seed=0, prefetch=0, **options)


def weights(classifier):
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


def train(config, given=None):
    return learn(given or loader(stripes(32), device="cpu"), config, image_shape=SHAPE, num_classes=2)


def test_it_learns_and_reports_both_sides(untouched_rng):
    data, test = stripes(32), stripes(60, seed=1)
    found = learn_and_score(loader(data, device="cpu"), LearnerConfig(steps=40), train=data, test=test, num_classes=2)
    assert found.test.accuracy > 0.95 and found.train.accuracy > 0.95
    assert found.gap == found.train.accuracy - found.test.accuracy
    assert found.as_json()["accuracy"] == found.test.accuracy and found.as_json()["gap"] == found.gap


def test_the_gap_sees_what_was_learned_by_heart():
    """Labels of noise can be learned by heart, and nothing else."""
    noise = torch.rand(76, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.arange(76) % 2
    data, test = ((part[0], part[1]) for part in (tuple(t[:16] for t in noise), tuple(t[16:] for t in noise)))
    found = learn_and_score(loader(data, device="cpu"), LearnerConfig(steps=150), train=data, test=test, num_classes=2)
    assert found.train.accuracy > 0.85 and found.gap > 0.2


def test_the_seed_decides_the_weights_and_nothing_else_does():
    torch.manual_seed(1)
    first = train(LearnerConfig(steps=3, seed=5))
    torch.manual_seed(2)
    assert torch.equal(weights(first), weights(train(LearnerConfig(steps=3, seed=5))))
    assert not torch.equal(weights(first), weights(train(LearnerConfig(steps=3, seed=6))))


def mixed(**options):
    noise = NoiseSynthesizer(SHAPE, num_classes=2)
    return loader(stripes(32), synthesizer=noise, synthetic_fraction=0.5, tag="synthetic", **options)


def test_synthetic_rows_without_weight_teach_nothing():
    """With group normalisation a row without weight changes no gradient: the pixels drawn cannot matter."""
    dark, light = (
        loader(
            stripes(32),
            synthesizer=NoiseSynthesizer(SHAPE, low=low, high=low + 0.1, num_classes=2),
            synthetic_fraction=0.5,
            tag="synthetic",
        )
        for low in (0.0, 0.9)
    )
    weightless = LearnerConfig(steps=4, synthetic_weight=0.0, normalisation="group")
    assert torch.allclose(weights(train(weightless, dark)), weights(train(weightless, light)), atol=1e-6)
    half = LearnerConfig(steps=4, synthetic_weight=0.5)
    first, second = (train(half, given) for given in (mixed(), mixed()))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(train(LearnerConfig(steps=4), mixed())))


def test_separate_norm_keeps_synthetic_rows_out_of_the_real_statistics():
    norm = SeparateNorm(3)
    real, synthetic = torch.randn(8, 3, 4, 4), torch.randn(8, 3, 4, 4) + 100
    rows = torch.arange(16) % 2 == 1
    maps = torch.stack((real, synthetic), 1).flatten(0, 1)
    norm.synthetic_rows = rows
    out = norm(maps)
    assert out[~rows].mean().abs() < 1e-4 and out[rows].mean().abs() < 1e-4
    assert norm.real.running_mean.abs().max() < 1 < norm.synthetic.running_mean.min()
    norm.synthetic_rows = None
    norm.eval()
    assert norm(real).abs().max() < 10


@pytest.mark.parametrize("normalisation", ["batch", "separate"])
def test_batch_norms_train_and_evaluate(normalisation):
    classifier = train(LearnerConfig(steps=60, normalisation=normalisation), mixed())
    assert score(classifier, *stripes(40, seed=2)).accuracy > 0.9
    found = [m for m in classifier.modules() if isinstance(m, SeparateNorm)]
    assert bool(found) == (normalisation == "separate")
    assert all(m.synthetic_rows is None for m in found)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in classifier.modules())


def test_scores_agree_with_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 5, generator=generator) * 2, torch.randint(5, (300,), generator=generator)
    found = score_logits(logits, labels)
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert found.macro_f1 == pytest.approx(
        float(metrics.multiclass_f1_score(logits, labels, num_classes=5, average="macro")), abs=1e-5
    )
    assert found.calibration_error == pytest.approx(
        float(metrics.multiclass_calibration_error(logits, labels, num_classes=5, n_bins=15)), abs=1e-5
    )


def test_a_class_that_does_not_occur_is_no_failure():
    logits = torch.eye(3)[[0, 1, 0, 1]] * 50
    assert score_logits(logits, torch.tensor([0, 1, 0, 1])) == Score(1.0, 1.0, pytest.approx(0), pytest.approx(0))


def test_bad_settings_and_data_raise():
    for options, message in (
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"synthetic_weight": 1.5}, r"synthetic_weight must be in \[0, 1\], got 1.5"),
        ({"normalisation": "layer"}, "normalisation must be one of group, batch, separate, got 'layer'"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            LearnerConfig(**options)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        learn([], image_shape=SHAPE, num_classes=2)
    with pytest.raises(ValueError, match="0 images and 0 labels"):
        score(train(LearnerConfig(steps=1)), torch.empty(0, *SHAPE), torch.empty(0, dtype=torch.int64))


def test_learned_is_flat_json():
    same = Score(0.5, 0.4, 0.1, 1.0)
    assert set(Learned(same, same).as_json()) == {
        "accuracy", "macro_f1", "calibration_error", "loss", "train_accuracy", "train_loss", "gap",
    }  # fmt: skip


def test_large_images_are_averaged_down_and_the_classifier_takes_them_as_they_are():
    noise = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    classifier = learn(loader(noise, device="cpu"), LearnerConfig(steps=2), image_shape=(1, 64, 64), num_classes=2)
    small = torch.nn.functional.avg_pool2d(noise[0], 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(classifier(noise[0]), classifier(small), atol=1e-5)
