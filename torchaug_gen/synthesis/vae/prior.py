"""The prior that codes are drawn from: a mixture of Gaussians per class, fitted to the codes of real images."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from torchaug_gen import rng

PRIORS = ("normal", "gaussian", "mixture")

# Rounds of expectation and maximisation. On 50 digits of a class the bound moves by less than 1e-3 nats after 20.
_ROUNDS = 30
_FOLDS = 3
# Fewer images than these in a component say nothing about its spread.
_IMAGES_EACH = 4
# A further component must raise the held-out log density per image by this many nats.
_WORTH = 0.1


class Mixture(NamedTuple):
    """A mixture of K Gaussians in D dimensions for each of G groups; within this module also of one group, without G.

    Args:
        weight: ``(G, K)``, rows that sum to 1; a component of weight 0 is never drawn.
        mean: ``(G, K, D)``.
        scale: ``(G, K, D, D)`` lower triangular Cholesky factors of the covariances.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor


class Codes(NamedTuple):
    """The codes of real images as the encoder tells them: a Gaussian each, of one image or of several views of it.

    Args:
        mean: ``(N, D)``.
        variance: ``(N, D)``, of each dimension.
        image: ``(N,)`` int64, which image a row is a view of; views of one image count as one image together.
    """

    mean: Tensor
    variance: Tensor
    image: Tensor

    def rows(self, chosen: Tensor) -> Self:
        """Return some of the rows."""
        return type(self)(self.mean[chosen], self.variance[chosen], self.image[chosen])


def standard(groups: int, components: int, dim: int) -> Mixture:
    """Return N(0, I) for every group, as the first of ``components``."""
    weight = torch.zeros(groups, components)
    weight[:, 0] = 1
    return Mixture(weight, torch.zeros(groups, components, dim), torch.eye(dim).repeat(groups, components, 1, 1))


def draw(mixture: Mixture, eps: Tensor, groups: Tensor) -> Tensor:
    """Turn standard normal vectors into codes.

    Which component is a function of the angle of a vector's first two dimensions, and what the angle tells beyond
    that is stretched to a whole turn again: for a standard normal vector the angle is uniform and does not depend
    on the radius, so that the codes follow the mixture exactly, and a vector that is shortened to truncate the
    samples keeps its component.

    Args:
        mixture: of D dimensions.
        eps: ``(N, D)`` standard normal.
        groups: ``(N,)`` int64.

    Returns:
        ``(N, D)``.
    """
    weight, mean, scale = (part[groups] for part in mixture)
    if weight.shape[1] == 1:
        return mean[:, 0] + transformed(scale[:, 0], eps)
    radius, angle = eps[:, :2].norm(dim=1), torch.atan2(eps[:, 1], eps[:, 0])
    share = (angle / math.tau + 0.5).clamp(0, 1)
    above = weight.cumsum(dim=1)
    # The last component that can be drawn takes what rounding leaves of the whole.
    chosen = (share[:, None] >= above[:, :-1]).sum(dim=1).minimum((weight > 0).cumsum(dim=1).argmax(dim=1))
    rows = torch.arange(len(eps), device=eps.device)
    rest = ((share - (above - weight)[rows, chosen]) / weight[rows, chosen]).clamp(0, 1)
    turned = (rest - 0.5) * math.tau
    eps = torch.cat(((radius * turned.cos())[:, None], (radius * turned.sin())[:, None], eps[:, 2:]), dim=1)
    return mean[rows, chosen] + transformed(scale[rows, chosen], eps)


def transformed(scale: Tensor, eps: Tensor) -> Tensor:
    """Return each row of ``eps`` ``(N, D)`` times its own matrix of ``scale`` ``(N, D, D)``.

    As a sum and not a batched product, whose last bits depend on N on some processors: a code must not depend on the
    rows beside it.
    """
    return (scale * eps.unsqueeze(-2)).sum(dim=-1)


def nearest(mixture: Mixture, codes: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(N, D)`` and scale ``(N, D, D)`` of the component that each code most probably comes from."""
    weight, mean, scale = (part[groups] for part in mixture)
    spread = torch.linalg.solve_triangular(scale, (codes[:, None] - mean).unsqueeze(-1), upper=False).squeeze(-1)
    log_density = weight.log() - spread.square().sum(-1) / 2 - scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    chosen = log_density.argmax(dim=1)
    rows = torch.arange(len(codes), device=codes.device)
    return mean[rows, chosen], scale[rows, chosen]


@torch.no_grad()
def fit(codes: Codes, groups: Tensor, *, num_groups: int, components: int, seed: int = 0) -> Mixture:
    """Fit a mixture to the codes of each group, of as many components as predict left-out images best.

    This is the aggregated posterior, whose mixture of all codes is the prior that raises the evidence lower bound
    most (Tomczak and Welling, "VAE with a VampPrior", 2018), in few enough components to generalise.

    A component's covariance counts its images and D more that have the covariance of a group's components together,
    which counts its images and D more that have the covariance of all groups together: the posterior mean under an
    inverse Wishart prior, which keeps the covariance of few images from being nearly flat in some directions.

    Args:
        codes: of all images, in D dimensions.
        groups: ``(N,)`` int64 in ``0..num_groups-1``, the same for all views of an image; each occurs.
        num_groups: number of groups.
        components: the most that a group may get; 1, 2, 3, 4, 6, 8, 12, ... up to it are tried.
        seed: of the first guesses.

    Returns:
        A mixture of ``components`` components in float32 on the codes' device.
    """
    codes = Codes(codes.mean.double(), codes.variance.double(), codes.image)
    pooled = _pooled(codes, groups, num_groups)
    parts = []
    for group in range(num_groups):
        own = codes.rows((groups == group).nonzero().squeeze(1))
        guess = rng.derive_seed(seed, "prior.guess", 0, group)
        best = _best_count(own, pooled, components, guess)
        parts.append(_padded(_maximise(own, pooled, best, guess), components))
    return Mixture(*(torch.stack(part).float() for part in zip(*parts, strict=True)))


def _best_count(codes: Codes, pooled: Tensor, most: int, seed: int) -> int:
    """Return how many components predict images that they were not fitted to best, by cross-validation."""
    _, image = codes.image.unique(return_inverse=True)
    fold = image % _FOLDS
    fitted_images = int(image.max()) + 1 - int(image.max()) // _FOLDS - 1
    best, best_score = 1, -math.inf
    for count in _counts(min(most, fitted_images // _IMAGES_EACH)):
        score = 0.0
        for left_out in range(_FOLDS):
            mixture = _maximise(codes.rows((fold != left_out).nonzero().squeeze(1)), pooled, count, seed)
            tested = codes.rows((fold == left_out).nonzero().squeeze(1))
            score += float(_joint(mixture, tested).logsumexp(dim=1).mean()) / _FOLDS
        if count > 1 and score < best_score + _WORTH:
            break
        best, best_score = count, score
    return best


def _counts(most: int) -> list[int]:
    """Return the numbers of components to try: 1, 2, 3, 4, 6, 8, 12, ..., or none where there is no choice."""
    powers = range(most.bit_length()) if most > 1 else ()
    return sorted({count for power in powers for count in (2**power, 3 * 2**power) if count <= most})


def _maximise(codes: Codes, pooled: Tensor, count: int, seed: int) -> Mixture:
    """Fit ``count`` components by expectation-maximisation (Dempster, Laird and Rubin 1977)."""
    _, image, views = codes.image.unique(return_inverse=True, return_counts=True)
    shares = 1 / views[image].double()
    mixture = Mixture(
        torch.full((count,), 1 / count, dtype=torch.float64, device=pooled.device),
        _guesses(codes.mean, pooled, count, seed),
        torch.linalg.cholesky(pooled).expand(count, -1, -1),
    )
    for _ in range(_ROUNDS if count > 1 else 1):
        belongs = _joint(mixture, codes).softmax(dim=1) * shares[:, None]
        mixture = _refitted(codes, belongs, pooled)
    return mixture


def _refitted(codes: Codes, belongs: Tensor, pooled: Tensor) -> Mixture:
    """Return the components that ``belongs`` (N, K), how many images of each row a component has, makes best."""
    dim, held = codes.mean.shape[1], belongs.sum(dim=0).clamp(min=1e-9)
    mean = belongs.T @ codes.mean / held[:, None]
    spread = codes.mean[None] - mean[:, None]
    scatter = (spread * belongs.T[..., None]).mT @ spread + torch.diag_embed(belongs.T @ codes.variance)
    total = held.sum()
    # All components of the group together are trusted more than one of them, and all groups' less.
    tied = (scatter.sum(dim=0) + dim * pooled) / (total + dim)
    covariance = (scatter + dim * tied) / (held[:, None, None] + dim)
    return Mixture(held / total, mean, torch.linalg.cholesky(covariance))


def _guesses(mean: Tensor, pooled: Tensor, count: int, seed: int) -> Tensor:
    """Return ``count`` of the rows that lie far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(pooled), mean.T, upper=False).T
    draws = rng.uniform(seed, "prior.centres", 0, torch.arange(count), dtype=torch.float64).to(mean.device)
    chosen = [(draws[0] * len(white)).long()]
    distance = torch.full_like(white[:, 0], math.inf)
    for share in draws[1:]:
        distance = distance.minimum((white - white[chosen[-1]]).square().sum(dim=1))
        reach = distance.cumsum(dim=0)
        chosen.append((reach < share * reach[-1]).sum().clamp(max=len(white) - 1))
    return mean[torch.stack(chosen)]


def _joint(mixture: Mixture, codes: Codes) -> Tensor:
    """Return ``(N, K)``: for each row the mean over its Gaussian of log weight plus log density of each component."""
    weight, mean, scale = mixture
    inverse = torch.linalg.solve_triangular(scale, torch.eye(scale.shape[-1]).to(scale), upper=False)
    white = torch.einsum("kij,nkj->nki", inverse, codes.mean[:, None] - mean)
    # A Gaussian's own spread adds the trace of its covariance times the component's precision.
    square = white.square().sum(dim=-1) + codes.variance @ inverse.square().sum(dim=1).T
    volume = scale.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    joint: Tensor = weight.log() - volume - square / 2 - scale.shape[-1] / 2 * math.log(math.tau)
    return joint


def _pooled(codes: Codes, groups: Tensor, num_groups: int) -> Tensor:
    """Return the covariance of codes about the mean of their group."""
    counts = torch.bincount(groups, minlength=num_groups).double()
    centres = torch.zeros(num_groups, codes.mean.shape[1], dtype=torch.float64, device=codes.mean.device)
    centres = centres.index_add(0, groups, codes.mean) / counts[:, None]
    spread = codes.mean - centres[groups]
    return (spread.T @ spread + codes.variance.sum(dim=0).diag()) / len(spread)


def _padded(mixture: Mixture, components: int) -> Mixture:
    """Add components of weight 0."""
    weight, mean, scale = mixture
    missing, dim = components - len(weight), mean.shape[1]
    return Mixture(
        torch.cat((weight, weight.new_zeros(missing))),
        torch.cat((mean, mean.new_zeros(missing, dim))),
        torch.cat((scale, torch.eye(dim).to(scale).repeat(missing, 1, 1))),
    )
