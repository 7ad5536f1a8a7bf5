import math

import pytest
import torch
from scipy import stats

from torchaug_gen.evaluation.resampled import (
    crossed_error,
    fold_error,
    gain_p,
    lower_bound,
    stratified_folds,
    student_tail,
)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 49, 100])
def test_tails_are_scipys(degrees):
    for t in (-4, -0.3, 0, 0.7, 2, 6):
        assert student_tail(t, degrees) == pytest.approx(stats.t.sf(t, degrees), abs=1e-12)


def test_without_overlap_it_is_the_usual_t_test():
    gains = [0.01, 0.05, -0.02, 0.04, 0.03]
    error = fold_error(gains, tested=1e9, trained=1e18)
    usual = stats.ttest_1samp(gains, 0.01, alternative="greater")
    assert gain_p(gains, error, margin=0.01) == pytest.approx(usual.pvalue)
    assert lower_bound(gains, error, level=0.025) == pytest.approx(usual.confidence_interval(0.95).low, abs=0.02)
    assert gain_p(gains, error, margin=lower_bound(gains, error, level=0.05)) == pytest.approx(0.05)


def test_overlapping_folds_are_less_sure():
    gains = [0.01, 0.05, -0.02, 0.04, 0.03]
    ratio = fold_error(gains, tested=20, trained=80) / fold_error(gains, tested=1e-3, trained=80)
    assert fold_error(gains, tested=2000, trained=8000) ** 2 == pytest.approx(0.00077 * (1 / 5 + 1 / 4), rel=1e-6)
    assert ratio < 1, "one image more or less is all that so few images can say"


def test_folds_that_agree_are_not_certain():
    assert fold_error([0.1, 0.1, 0.1], tested=10, trained=20) > 0.03
    assert crossed_error(torch.full((3, 20), 0.1)) > 0.01


def test_crossed_errors_cover_trainings_and_images():
    """Over many made-up experiments the mean is within two errors of the truth as often as it should be."""
    generator = torch.Generator().manual_seed(0)
    covered, trials = 0, 400
    for _ in range(trials):
        seeds = 0.05 * torch.randn(8, 1, generator=generator)
        images = 0.4 * torch.randn(1, 60, generator=generator)
        rest = 0.3 * torch.randn(8, 60, generator=generator)
        found = seeds + images + rest
        covered += abs(float(found.mean())) < 1.96 * crossed_error(found)
    assert 0.92 < covered / trials < 0.99


def test_folds_deal_out_every_class():
    labels = torch.tensor([0] * 11 + [1] * 5 + [2] * 2 + [3])
    folds = stratified_folds(labels, 5, seed=0, repeat=0)
    assert folds[18] == -1 and set(folds[:18].tolist()) == set(range(5))
    assert torch.bincount(folds[:18]).tolist() == [4, 4, 4, 3, 3]
    assert torch.bincount(folds[:11]).max() == 3 and folds[16] != folds[17]
    assert not torch.equal(folds, stratified_folds(labels, 5, seed=0, repeat=1))
    assert math.isclose(float((folds == stratified_folds(labels, 5, seed=0, repeat=0)).double().mean()), 1)
