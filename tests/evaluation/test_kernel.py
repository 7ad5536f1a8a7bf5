import pytest
import torch

from torchaug_gen.evaluation import kernel
from torchaug_gen.evaluation.kernel import kernel_distance


def gaussian(n, width=24, *, seed=0, shift=0.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift


def slow(x, y):
    """The estimator as sums over pairs."""
    x, y = x.double(), y.double()

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m))


def test_is_the_sum_over_pairs():
    x, y = gaussian(7), gaussian(5, seed=1, shift=0.3)
    assert kernel_distance(x, y).value == pytest.approx(slow(x, y), rel=1e-9)


def test_interval_is_that_of_leaving_each_image_out():
    x, y = gaussian(9), gaussian(6, seed=1, shift=1.0)
    variance = 0.0
    for side in (0, 1):
        pair = [x, y]
        left = []
        for row in range(len(pair[side])):
            kept = torch.arange(len(pair[side])) != row
            left.append(slow(*[s[kept] if i == side else s for i, s in enumerate(pair)]))
        spread = torch.tensor(left, dtype=torch.float64)
        variance += float((len(left) - 1) / len(left) * (spread - spread.mean()).square().sum())
    low, high = kernel_distance(x, y).interval
    assert (high - low) / 2 == pytest.approx(2.571 * variance**0.5, rel=1e-6)


def test_same_distribution_is_within_its_interval_and_a_shift_is_not():
    same = [kernel_distance(gaussian(120, seed=s), gaussian(120, seed=s + 99)) for s in range(40)]
    assert sum(found.tells_apart for found in same) <= 2
    # Without bias: on both sides of zero.
    assert 8 <= sum(found.value > 0 for found in same) <= 32
    shifted = [kernel_distance(gaussian(120, seed=s), gaussian(120, seed=s + 99, shift=0.3)) for s in range(10)]
    assert all(found.tells_apart for found in shifted)


def test_intervals_hold_zero_where_there_is_no_difference_and_one_feature():
    # The jackknife alone holds it in 84 of 100.
    held = 0
    for seed in range(100):
        sides = [0.5 + 0.1 * gaussian(60, 1, seed=one) for one in (seed, seed + 999)]
        low, high = kernel_distance(*sides).interval
        held += low <= 0 <= high
    assert held >= 95


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = (
        sum(kernel_distance(gaussian(1000, seed=s), gaussian(1000, seed=s + 9, shift=0.2)).value for s in range(4)) / 4
    )
    held = 0
    for seed in range(500, 560):
        low, high = kernel_distance(gaussian(100, seed=seed), gaussian(100, seed=seed + 99, shift=0.2)).interval
        held += low <= truth <= high
    assert held >= 51


def test_blocks_agree_with_the_whole(monkeypatch):
    x, y = gaussian(400), gaussian(300, seed=1, shift=0.3)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(kernel, "_BLOCK", 100)
    monkeypatch.setattr(kernel, "_ROWS", 17)
    blocks = kernel_distance(x, y)
    assert blocks.value != whole.value
    assert whole.interval[0] < blocks.value < whole.interval[1]
    wide = [interval[1] - interval[0] for interval in (whole.interval, blocks.interval)]
    assert wide[1] == pytest.approx(wide[0], rel=0.3)


def test_agrees_with_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity.metric_kid", reason="needs torch-fidelity (extra test)")
    x, y = gaussian(50), gaussian(50, seed=1, shift=0.3)
    theirs = fidelity.kid_features_to_metric(
        x.double(), y.double(), kid_subsets=1, kid_subset_size=50, kid_kernel="poly", verbose=False
    )
    assert kernel_distance(x, y).value == pytest.approx(theirs[fidelity.KEY_METRIC_KID_MEAN], rel=1e-6)


def test_few_images_raise():
    with pytest.raises(ValueError, match="at least 3 images a side, got 2 and 9"):
        kernel_distance(gaussian(2), gaussian(9))


@pytest.mark.gpu
def test_cuda_agrees():
    x, y = gaussian(300), gaussian(300, seed=1, shift=0.3)
    assert kernel_distance(x.cuda(), y.cuda()).value == pytest.approx(kernel_distance(x, y).value, rel=1e-9)
