import math
import random

import numpy as np
import pytest

from torchaug_gen.evaluation.experiment.statistics import (
    COVERAGE,
    compare_pairs,
    corrected,
    holm,
    mean_interval,
    share_of_gain,
    standard_error,
    t_test,
)

stats = pytest.importorskip("scipy.stats")


def pairs(gains, *, start=0.5):
    return [start] * len(gains), [start + gain for gain in gains]


def made(gains, **about):
    return compare_pairs(*pairs(gains), **({"arm": "vae", "against": "augmented", "per_class": 20} | about))


def test_holm_on_numbers_worked_by_hand():
    # 4·0.01, 3·0.02, then 2·0.03 = 0.06 which equals the one before, and 0.04 raised to it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
    # Of five that were planned, three were not run.
    assert holm([0.02, 0.01], family=5) == pytest.approx([0.08, 0.05])


def test_a_verdict_does_not_depend_on_which_others_were_run_yet():
    gains = [0.03, 0.01, 0.04, 0.02, 0.00, 0.03]
    noise = [made([0.01, -0.01, 0.02, -0.02, 0.01, -0.01], per_class=size) for size in range(10, 16)]
    found = [corrected([made(gains), *noise[:count]], family=7)[0] for count in range(7)]
    assert len({(each.adjusted, each.outcome) for each in found}) == 1
    assert found[0].adjusted == pytest.approx(7 * found[0].p)


def test_holm_is_never_below_the_p_values_and_keeps_their_order():
    p = [random.Random(1).random() for _ in range(20)]
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    order = sorted(range(20), key=p.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ([0.03, 0.02, 0.04, 0.03, 0.02, 0.04], "helped"),
        ([-0.03, -0.02, -0.04, -0.03, -0.02, -0.04], "hurt"),
        ([0.03, -0.02, 0.01, -0.03, 0.02, 0.0], "no difference beyond noise"),
        # The bootstrap interval of three pairs excludes zero, but three pairs do not carry a verdict.
        ([0.001, 0.02, 0.05], "no difference beyond noise"),
        ([0.03, 0.04], "cannot tell"),
        ([0.03], "cannot tell"),
        ([0.0, 0.0, 0.0], "no difference beyond noise"),
    ],
)
def test_verdicts_on_planted_gains(gains, outcome):
    assert corrected([made(gains)])[0].outcome == outcome


def test_asking_often_needs_more():
    gains = [0.03, 0.01, 0.04, 0.02, 0.00, 0.03]
    assert corrected([made(gains)])[0].outcome == "helped"
    noise = [made([0.01, -0.01, 0.02, -0.02, 0.01, -0.01], per_class=size) for size in range(10, 16)]
    among_many = corrected([made(gains), *noise])
    assert among_many[0].outcome == "no difference beyond noise"
    assert among_many[0].adjusted == pytest.approx(7 * among_many[0].p)


@pytest.mark.parametrize("seeds", [4, 12])
def test_intervals_cover_the_mean_as_seldom_as_is_said(seeds):
    """100 sets of seeds without any difference: 95 should be covered, and fewer are; within three standard errors."""
    source = np.random.default_rng(0)
    bounds = [mean_interval(source.normal(size=seeds)) for _ in range(100)]
    share = COVERAGE[seeds] / 100
    assert 100 * share == pytest.approx(
        sum(low <= 0 <= high for low, high in bounds), abs=300 * math.sqrt(share * (1 - share) / 100)
    )


def test_an_interval_holds_its_mean_and_is_the_same_each_time():
    values = [0.01, 0.03, -0.01, 0.02, 0.05]
    low, high = mean_interval(values)
    assert low < sum(values) / 5 < high and (low, high) == mean_interval(values)
    assert mean_interval([0.02, 0.02]) == (0.02, 0.02)


def test_the_t_test_is_scipys_and_has_an_answer_without_spread():
    values = [0.01, 0.03, -0.01, 0.02]
    assert made(values).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert t_test(0.0, 0.0, 2) == 1.0 and t_test(0.1, 0.0, 2) == 0.0


def test_seeds_that_agree_to_the_image_are_no_proof():
    """One image of nine on each of three seeds: without a spread the t-test would be sure."""
    assert standard_error([0.1] * 3, tested=9) == pytest.approx(0.5 / 9 / math.sqrt(3))
    one, none = (corrected([made([gain] * 3, tested=9)])[0] for gain in (1 / 9, 0.0))
    assert one.p > 0.05 and one.outcome == none.outcome == "no difference beyond noise"
    assert none.hidden > 1 / 9
    assert corrected([made([3 / 9] * 3, tested=9)])[0].outcome == "helped"
    # Where figures have a spread of their own, the number of test images changes nothing.
    assert made([0.03, 0.02, 0.04], tested=700).p == made([0.03, 0.02, 0.04]).p


def test_what_could_hide_in_the_noise_is_not_less_than_the_t_test_misses():
    gains = [-0.014, -0.001, -0.014]
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    found = made(gains)
    assert found.hidden == pytest.approx(-interval.low, abs=1e-4) and found.hidden > -found.interval[0]
    assert made([0.1]).hidden is None


def test_pairs_are_counted_by_the_side_that_they_fall_to():
    found = made([0.02, -0.01, 0.0, -0.03])
    assert (found.above, found.below, found.pairs) == (1, 2, 4)


def test_the_share_of_what_real_images_gain():
    base, real = pairs([0.04, 0.06, 0.05, 0.05])
    _, half = pairs([0.02, 0.03, 0.025, 0.025])
    share, low, high = share_of_gain(base, half, real)
    assert share == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)
    assert share_of_gain(base, base, real)[0] == 0
    # Where real images do not gain themselves there is nothing to be a share of.
    assert share_of_gain(base, half, pairs([0.04, -0.05, 0.01, 0.0])[1]) is None


def test_figures_that_are_no_pairs_raise():
    with pytest.raises(ValueError, match="got 0 and 0"):
        made([])
    with pytest.raises(ValueError, match="finite"):
        made([math.nan, 0.1])
    with pytest.raises(ValueError, match="got 1 and 2"):
        compare_pairs([0.1], [0.1, 0.2], arm="vae", against="augmented", per_class=20)
