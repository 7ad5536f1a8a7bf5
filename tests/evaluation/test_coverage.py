import pytest
import torch

from torchaug_gen.evaluation import coverage as module
from torchaug_gen.evaluation.coverage import coverage, radii


def gaussian(n, width=8, *, seed=0, scale=1.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale


def slow(real, synthetic, k, k_density):
    """The four definitions, one image at a time."""

    def ball(points, i, k):
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

    n, m = len(real), len(synthetic)
    near, far = ([ball(real, i, count) for i in range(n)] for count in (k, k_density))
    reach = [ball(synthetic, j, k) for j in range(m)]
    d = [[float((s - r).norm()) for r in real] for s in synthetic]
    return (
        sum(any(d[j][i] <= near[i] for i in range(n)) for j in range(m)) / m,
        sum(any(d[j][i] <= reach[j] for j in range(m)) for i in range(n)) / n,
        sum(d[j][i] <= far[i] for i in range(n) for j in range(m)) / (k_density * m),
        sum(any(d[j][i] <= far[i] for j in range(m)) for i in range(n)) / n,
    )


def four(found):
    return found.precision, found.recall, found.density, found.coverage


@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (1, 2)])
def test_are_the_definitions(k, k_density, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 7)
    real, synthetic = gaussian(30), gaussian(20, seed=1, scale=1.3)
    expected = slow(real.double(), synthetic.double(), k, k_density)
    assert four(coverage(real, synthetic, k=k, k_density=k_density)) == pytest.approx(expected, abs=1e-9)


def test_of_a_set_to_itself_are_whole():
    real = gaussian(200) + 100
    found = coverage(real, real.clone())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density > 1


def test_dropped_modes_cost_recall_and_coverage_but_not_precision():
    centres = 20 * torch.eye(4, 8)
    modes = torch.arange(400) % 4
    real = gaussian(400) + centres[modes]
    good, dropped = gaussian(400, seed=1) + centres[modes], gaussian(400, seed=1) + centres[modes % 2]
    all_of_it, half = coverage(real, good), coverage(real, dropped)
    assert half.precision > all_of_it.precision - 0.05
    assert half.recall < 0.6 * all_of_it.recall
    assert half.coverage < 0.6 * all_of_it.coverage


def test_noise_costs_precision_and_copies_of_few_cost_coverage():
    real = gaussian(400)
    noisy = gaussian(400, seed=1) + 3 * gaussian(400, seed=2)
    assert coverage(real, noisy).precision < 0.3
    copies = real[:20].repeat(20, 1)
    copied = coverage(real, copies)
    assert copied.precision == 1
    assert copied.coverage < 0.4
    assert copied.recall < 0.1


def test_agrees_with_torch_fidelity():
    theirs = pytest.importorskip("torch_fidelity.metric_prc", reason="needs torch-fidelity (extra test)")
    real, synthetic = gaussian(150), gaussian(150, seed=1, scale=1.3)
    expected = theirs.prc_features_to_metric(synthetic, real, prc_neighborhood=3, prc_batch_size=50, verbose=False)
    found = coverage(real, synthetic)
    assert found.precision == pytest.approx(expected[theirs.KEY_METRIC_PRECISION], abs=1e-6)
    assert found.recall == pytest.approx(expected[theirs.KEY_METRIC_RECALL], abs=1e-6)


def test_radii_leave_the_image_itself_out():
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    assert radii(line, (1, 2)).tolist() == [[1, 3], [1, 2], [0, 2], [0, 2]]


def test_too_few_images_or_neighbours_raise():
    with pytest.raises(ValueError, match="at least 6 images a side, got 5 and 9"):
        coverage(gaussian(5), gaussian(9))
    with pytest.raises(ValueError, match="at least 1, got 0 and 5"):
        coverage(gaussian(9), gaussian(9), k=0)


@pytest.mark.gpu
def test_cuda_agrees():
    real, synthetic = gaussian(300), gaussian(300, seed=1, scale=1.3)
    assert four(coverage(real.cuda(), synthetic.cuda())) == pytest.approx(four(coverage(real, synthetic)), abs=0.01)
