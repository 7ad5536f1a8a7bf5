import math

import pytest
import torch

from torchaug_gen.evaluation.frechet import extrapolated_distance, frechet_distance


def gaussian(n, width, *, seed=0, scale=1.0, shift=0.0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def textbook(a, b):
    """The formula as it stands, with a general matrix root."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = a.double().numpy(), b.double().numpy()
    import numpy as np

    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


@pytest.mark.parametrize(("n", "m"), [(60, 90), (60, 8), (7, 9)])
def test_is_the_formula_of_the_paper_above_and_below_as_many_images_as_features(n, m):
    a, b = gaussian(n, 12), gaussian(m, 12, seed=1, scale=1.5, shift=0.3)
    assert frechet_distance(a, b) == pytest.approx(textbook(a, b), rel=1e-4)


def test_in_one_dimension_it_is_known():
    a, b = gaussian(500, 1), gaussian(400, 1, seed=1, scale=3, shift=2)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("n", [5, 300])
def test_of_a_set_to_itself_is_zero_also_far_from_the_origin(n):
    a = gaussian(n, 16, shift=1000.0)
    assert frechet_distance(a, a) < 1e-6


def test_a_shift_adds_its_square_and_symmetry_holds():
    a = gaussian(300, 8)
    assert frechet_distance(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-5)
    b = gaussian(200, 8, seed=1, scale=2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_features_without_variance_are_no_trouble():
    a, b = torch.ones(40, 6), torch.ones(30, 6)
    b[:, 0] = 3
    assert frechet_distance(a, b) == pytest.approx(4)


def test_extrapolation_takes_the_bias_away():
    truth = 16 * 0.3**2
    plain, extrapolated = [], []
    for seed in range(8):
        pair = gaussian(64, 16, seed=2 * seed), gaussian(64, 16, seed=2 * seed + 1, scale=1.3)
        plain.append(frechet_distance(*pair))
        extrapolated.append(extrapolated_distance(*pair))
    bias, left = sum(plain) / 8 - truth, sum(extrapolated) / 8 - truth
    assert bias > 1.0
    assert abs(left) < 0.3 * bias


def test_agrees_with_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity.metric_fid", reason="needs torch-fidelity (extra test)")
    a, b = gaussian(80, 12), gaussian(70, 12, seed=1, scale=1.5)
    statistics = [fidelity.fid_features_to_statistics(side.double()) for side in (a, b)]
    theirs = fidelity.fid_statistics_to_metric(*statistics, verbose=False)[fidelity.KEY_METRIC_FID]
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.slow  # Importing torchmetrics takes 15 s.
def test_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="needs torchmetrics (extra test)")
    pytest.importorskip("torch_fidelity", reason="torchmetrics' distance needs torch-fidelity (extra test)")
    a, b = gaussian(80, 12).sigmoid(), gaussian(70, 12, seed=1, scale=1.5).sigmoid()

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)

    metric = fid.FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(1, 3, 4))
    metric.set_dtype(torch.float64)
    for images, real in ((a, True), (b, False)):
        metric.update(images.view(-1, 1, 3, 4).double(), real=real)
    # It rounds images to 8 bits on the way.
    assert math.isclose(frechet_distance(a, b), float(metric.compute()), rel_tol=1e-3)


@pytest.mark.parametrize(("a", "b"), [((1, 4), (9, 4)), ((9, 4), (9, 5)), ((9,), (9, 4)), ((0, 4), (0, 4))])
def test_shapes_that_have_no_distance_raise(a, b):
    with pytest.raises(ValueError, match=r"at least 2 images|must be \(N, D\)"):
        frechet_distance(torch.zeros(a), torch.zeros(b))


@pytest.mark.gpu
def test_cuda_agrees():
    a, b = gaussian(200, 32), gaussian(200, 32, seed=1, scale=1.5)
    assert frechet_distance(a.cuda(), b.cuda()) == pytest.approx(frechet_distance(a, b), rel=1e-6)
