"""The mixture of Gaussians per class that codes are drawn from."""

import math

import pytest
import torch

from torchaug_gen.synthesis.vae import prior
from torchaug_gen.synthesis.vae.prior import Codes, Mixture


def randn(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def codes_of(mean, variance=0.05, views=1):
    image = torch.arange(len(mean)).repeat(views)
    mean = mean.repeat(views, 1)
    return Codes(mean, torch.full_like(mean, variance), image)


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def uneven():
    """A mixture of very different components and weights, with one that is never drawn."""
    scale = torch.linalg.cholesky(torch.tensor([[2.0, 0.6, 0], [0.6, 0.5, 0.1], [0, 0.1, 1]]))
    scales = torch.stack((scale, 0.1 * torch.eye(3), scale.T @ scale, torch.eye(3)))
    means = torch.tensor([[10.0, 0, 0], [-10, 0, 0], [0, 20, 0], [1e6, 0, 0]])
    return Mixture(torch.tensor([[0.7, 0.05, 0.25, 0]]), means[None], scales.tril()[None])


def test_drawn_codes_follow_the_mixture():
    mixture, n = uneven(), 200_000
    drawn = prior.draw(mixture, randn(n, 3), zeros(n))
    nearest = (drawn[:, None] - mixture.mean[0]).square().sum(-1).argmin(dim=1)
    assert torch.bincount(nearest, minlength=4)[3] == 0
    for k in range(3):
        own = drawn[nearest == k]
        weight = float(mixture.weight[0, k])
        assert abs(len(own) / n - weight) < 5 * math.sqrt(weight / n)
        white = torch.linalg.solve_triangular(mixture.scale[0, k], (own - mixture.mean[0, k]).T, upper=False).T
        torch.testing.assert_close(white.mean(dim=0), torch.zeros(3), atol=0.04, rtol=0)
        torch.testing.assert_close(torch.cov(white.T), torch.eye(3), atol=0.05, rtol=0)
        # Gaussian beyond two moments: a turned angle that were not uniform would show here.
        torch.testing.assert_close(white.pow(4).mean(dim=0), torch.full((3,), 3.0), atol=0.3, rtol=0)


def test_shorter_vectors_keep_their_component_and_come_nearer_its_mean():
    mixture, eps = uneven(), randn(1000, 3)
    far, near = (prior.draw(mixture, eps * length, zeros(1000)) for length in (1.0, 0.01))
    means = mixture.mean[0]
    chosen = (far[:, None] - means).square().sum(-1).argmin(dim=1)
    assert (near - means[chosen]).abs().max() < 0.2


def test_the_standard_prior_changes_nothing():
    eps = randn(500, 4)
    torch.testing.assert_close(prior.draw(prior.standard(2, 3, 4), eps, zeros(500)), eps, atol=1e-5, rtol=0)
    assert torch.equal(prior.draw(prior.standard(2, 1, 4), eps, zeros(500)), eps)


def test_codes_of_each_group_come_from_its_own_mixture():
    mixture = prior.standard(3, 1, 2)
    mixture.mean[:, 0, 0] = torch.tensor([0.0, 100, 200])
    drawn = prior.draw(mixture, randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0]))
    assert (drawn[:, 0] / 100).round().tolist() == [0, 1, 2, 2, 1, 0]


def test_no_vector_falls_outside_the_components():
    eps = torch.tensor([[-1.0, 0.0, 0], [-1.0, -0.0, 0], [0, 0, 0], [1, 0, 0], [-1, -1e-30, 0], [-1, 1e-30, 0]])
    for weight in ([0.1] * 10, [1.0] + [0.0] * 9, [1 / 3] * 3 + [0.0] * 7):
        mixture = Mixture(torch.tensor([weight]), torch.zeros(1, 10, 3), torch.eye(3).repeat(1, 10, 1, 1))
        mixture.mean[0, torch.tensor(weight) == 0] = 1e6
        drawn = prior.draw(mixture, eps, zeros(6))
        assert drawn.isfinite().all()
        assert drawn.abs().max() < 10


def test_one_gaussian_has_the_mean_and_covariance_of_the_codes():
    labels = torch.arange(40_000) % 2
    mixing = torch.tensor([[[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.1]], [[0.3, 0, 0], [0, 3, 0], [0.2, -1, 1]]])
    centres = torch.tensor([[1.0, 2, 3], [-1, 0, 5]])
    mean = centres[labels] + (mixing[labels] @ randn(40_000, 3, 1)).squeeze(-1)
    variance = torch.tensor([0.5, 0.1, 0.2])
    codes = Codes(mean, variance.expand(40_000, 3), torch.arange(40_000))
    fitted = prior.fit(codes, labels, num_groups=2, components=1)
    assert torch.equal(fitted.weight, torch.ones(2, 1))
    torch.testing.assert_close(fitted.mean[:, 0], centres, atol=0.06, rtol=0)
    expected = mixing @ mixing.mT + variance.diag()
    torch.testing.assert_close(fitted.scale[:, 0] @ fitted.scale[:, 0].mT, expected, atol=0.15, rtol=0.03)


def test_clusters_are_found_and_counted():
    mean, labels = randn(180, 4), torch.arange(180) // 60
    # One cluster in the first class, two in the second, three in the third, of uneven sizes.
    mean[60:80] += 8
    mean[120:150] -= 9
    mean[150:165] += torch.tensor([9.0, -9, 9, -9])
    fitted = prior.fit(codes_of(mean, views=3), labels.repeat(3), num_groups=3, components=8)
    assert (fitted.weight > 0.01).sum(dim=1).tolist() == [1, 2, 3]
    weights = [sorted(round(float(w), 2) for w in row if w > 0.01) for row in fitted.weight]
    assert weights == [[1.0], [0.33, 0.67], [0.25, 0.25, 0.5]]
    assert fitted.mean.shape == (3, 8, 4)


def test_a_mixture_describes_clusters_better_than_one_gaussian():
    mean, fresh = randn(100, 3), randn(400, 3, seed=1)
    mean[::2] += 6
    fresh[::2] += 6
    scores = []
    for components in (1, 4):
        fitted = prior.fit(codes_of(mean), zeros(100), num_groups=1, components=components)
        gaussians = torch.distributions.MultivariateNormal(fitted.mean[0], scale_tril=fitted.scale[0])
        joint = gaussians.log_prob(fresh[:, None]) + fitted.weight[0].log()
        scores.append(float(joint.logsumexp(dim=1).mean()))
    assert scores[1] > scores[0] + 0.3


def test_views_of_an_image_count_as_one():
    mean, labels = randn(24, 6), torch.arange(24) % 2
    once = prior.fit(codes_of(mean), labels, num_groups=2, components=1)
    often = prior.fit(codes_of(mean, views=8), labels.repeat(8), num_groups=2, components=1)
    for a, b in zip(once, often, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("components", [1, 4])
def test_a_class_of_one_image_borrows_the_spread_of_the_others(components):
    mean, labels = randn(31, 5), torch.tensor([0] * 30 + [1])
    fitted = prior.fit(codes_of(mean, 0.0005), labels, num_groups=2, components=components)
    assert all(part.isfinite().all() for part in fitted)
    assert fitted.weight[1].tolist() == [1.0] + [0.0] * (components - 1)
    assert torch.linalg.svdvals(fitted.scale[1, 0]).min() > 0.3


@pytest.mark.parametrize("mean", [torch.zeros(12, 3), torch.ones(1, 3), torch.eye(3).repeat(5, 1)])
def test_equal_codes_give_a_prior_that_can_be_drawn_from(mean):
    fitted = prior.fit(codes_of(mean, 1e-6), zeros(len(mean)), num_groups=1, components=4)
    assert prior.draw(fitted, randn(50, 3), zeros(50)).isfinite().all()


def test_the_same_codes_give_the_same_prior():
    torch.manual_seed(0)
    codes = codes_of(randn(60, 4) * torch.tensor([1.0, 4, 9, 1]))
    first = prior.fit(codes, zeros(60), num_groups=1, components=4, seed=3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = prior.fit(codes, zeros(60), num_groups=1, components=4, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_nearest_component_is_the_most_probable_one():
    mixture = uneven()
    mean, scale = prior.nearest(mixture, torch.tensor([[9.0, 0, 0], [-9.9, 0, 0], [2, 18, 1]]), zeros(3))
    assert torch.equal(mean, mixture.mean[0, :3])
    assert torch.equal(scale, mixture.scale[0, :3])
