import threading

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from torchaug_gen.seeded import Seeded

X = torch.linspace(0, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)

RANDOM = {
    "rand": lambda: torch.rand(64),
    "randn": lambda: torch.randn(64),
    "randint": lambda: torch.randint(100, (64,)),
    "randint_low": lambda: torch.randint(-5, 100, (64,)),
    "randperm": lambda: torch.randperm(64),
    "rand_like": lambda: torch.rand_like(X),
    "randn_like": lambda: torch.randn_like(X),
    "randint_like": lambda: torch.randint_like(X, 100),
    "randint_like_low": lambda: torch.randint_like(X, 2, 100),
    "normal": lambda: torch.normal(0.0, 1.0, (64,)),
    "uniform_": lambda: torch.empty(64).uniform_(),
    "random_": lambda: torch.empty((), dtype=torch.int64).random_(),
    "bernoulli": lambda: torch.bernoulli(torch.full((64,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(1000), 5),
    "dropout": lambda: F.dropout(X, training=True),
    "dropout2d": lambda: F.dropout2d(X.repeat(1, 16, 1, 1), training=True),
    "alpha_dropout": lambda: F.alpha_dropout(X, training=True),
    "native_dropout": lambda: torch.native_dropout(X, 0.5, True)[0],
    "rrelu": lambda: F.rrelu(-X, training=True),
    "beta": lambda: torch.distributions.Beta(0.4, 0.4).sample((16,)),
    "dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample((4,)),
}
MODES = [torch.enable_grad, torch.no_grad, torch.inference_mode]


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_decides(name, mode):
    drawn = []
    for seed in (5, 5, 6):
        with mode(), Seeded(seed):
            drawn.append(RANDOM[name]())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


PIPELINES = {
    "kornia": lambda: K.AugmentationSequential(
        K.RandomAffine(15.0, (0.1, 0.1), (0.9, 1.1)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.2, 0.2, 0.2, 0.1),
        K.RandomErasing(p=1.0),
        K.RandomGaussianNoise(p=1.0),
        data_keys=["input"],
    ),
    "kornia_policies": lambda: K.ImageSequential(
        K.RandomPerspective(p=1.0), K.RandomPlasmaShadow(p=1.0), random_apply=1
    ),
    "torchvision": lambda: v2.Compose(
        [v2.RandomResizedCrop(8), v2.RandAugment(), v2.ColorJitter(0.4, 0.4), v2.RandomErasing(p=1.0), v2.AugMix()]
    ),
}


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("name", PIPELINES)
def test_whole_pipelines_are_reproducible(name):
    transform, images = PIPELINES[name](), (X * 255).byte() if name == "torchvision" else X
    with Seeded(1):
        first = transform(images)
    with Seeded(1):
        again = transform(images)
    with Seeded(2):
        other = transform(images)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_operations_with_a_generator_of_their_own_keep_it():
    own = [torch.rand(5, generator=torch.Generator().manual_seed(1)) for _ in range(1)]
    with Seeded(9):
        own.append(torch.rand(5, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(*own)


def test_other_threads_are_not_touched():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with Seeded(1):
        result = []
        thread = threading.Thread(target=lambda: result.append(torch.rand(3)))
        thread.start()
        thread.join()
    assert torch.equal(result[0], expected)


def test_attention_without_dropout_runs_and_with_dropout_is_refused():
    q = torch.rand(1, 2, 16, 8)
    with Seeded(0):
        F.scaled_dot_product_attention(q, q, q)
        nn.GRU(8, 8)(torch.rand(3, 2, 8))
        with pytest.raises(RuntimeError, match="takes no other"):
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.5)


def test_weight_initialisation_is_reproducible():
    def weights(seed):
        with Seeded(seed):
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 4), nn.Embedding(3, 3)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_results_are_plain_tensors():
    with Seeded(0):
        drawn = torch.rand(4)
    assert type(drawn) is torch.Tensor
    assert np.isfinite(drawn.numpy()).all()
