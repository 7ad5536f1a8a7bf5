"""A pool goes on from epoch to epoch."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer, SyntheticPool
from torchaug_gen.loading.continuity import draws_before

ITEMS, BATCH = 60, 20


def pool(**options):
    return SyntheticPool(NoiseSynthesizer((1, 4, 4), num_classes=2), **{"capacity": 64, "reuse": 8, **options})


def loader(synthesizer, *, fraction=0.3, mixing="rebatch", dataset=None, **options):
    data = TensorDataset(torch.zeros(ITEMS, 1, 4, 4), torch.arange(ITEMS) % 2) if dataset is None else dataset
    inner = DataLoader(data, BATCH, shuffle=isinstance(data, TensorDataset))
    return AugmentedLoader(
        inner, synthesizer=synthesizer, synthetic_fraction=fraction, mixing=mixing, tag="synthetic", **options
    )


def synthetic(batches):
    return torch.cat([images[rows] for images, _, rows in batches])


def test_short_epochs_reuse_samples_as_often_as_long_ones():
    source = pool()
    mixed = loader(source)
    for _ in range(40):
        for _ in mixed:
            pass
    assert source.stats.delivered == 40 * 26
    # What is at hand in the end has not been used up yet.
    assert source.stats.drawn <= source.stats.delivered / 8 + source.capacity


def test_an_epoch_begins_with_the_samples_that_the_last_one_ended_with():
    mixed = loader(pool(capacity=8, reuse=64))
    first, second = synthetic(mixed), synthetic(mixed)
    assert {image.numpy().tobytes() for image in first} & {image.numpy().tobytes() for image in second}


def test_epochs_follow_each_other_as_one_long_one():
    labels = torch.arange(30) % 2
    source = pool()
    whole, _ = source.sample(labels=labels, seed=5)
    later, _ = source.going_on(10).sample(labels=labels[10:], seed=5, epoch=3)
    assert torch.equal(later, whole[10:])


@pytest.mark.parametrize("epoch", [1, 4])
@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
def test_a_pass_is_a_function_of_its_epoch(mixing, epoch):
    running = loader(pool(), mixing=mixing)
    for _ in range(epoch):
        list(running)
    expected = synthetic(running)
    fresh = loader(pool(), mixing=mixing)
    fresh.set_epoch(epoch)
    assert torch.equal(synthetic(fresh), expected)


def test_a_resume_in_a_later_epoch_is_exact():
    running = loader(pool(), fraction=lambda epoch, step: min(0.1 * epoch, 0.4))
    list(running)
    list(running)
    iterator = iter(running)
    next(iterator)
    state = json.loads(json.dumps(running.state_dict()))
    rest = synthetic(iterator)
    resumed = loader(pool(), fraction=lambda epoch, step: min(0.1 * epoch, 0.4))
    resumed.load_state_dict(state)
    assert torch.equal(synthetic(resumed), rest)


@pytest.mark.parametrize("mixing", ["rebatch", "extend", "replace"])
@pytest.mark.parametrize(
    "fraction", [0.3, [0.5, 0.1], lambda epoch, step: min(0.1 * epoch, 0.4), lambda epoch, step: 0.1 * (step % 2)]
)
def test_the_count_of_earlier_epochs_is_about_what_they_had(fraction, mixing):
    mixed = loader(pool(), fraction=fraction, mixing=mixing)
    for epoch in range(5):
        told = draws_before(mixed._inner, mixed._settings, epoch)
        # Exact but for rounding: each epoch rounds up, and what changes is looked at at some of its steps.
        assert told == pytest.approx(mixed.stats.synthetic, abs=4 * epoch)
        list(mixed)


class Endless(torch.utils.data.IterableDataset):
    """Sixty items, but it does not say so."""

    def __iter__(self):
        return iter([(torch.zeros(1, 4, 4), number % 2) for number in range(ITEMS)])


def test_over_a_stream_of_unknown_length_every_epoch_begins_anew():
    mixed = loader(pool(), dataset=Endless())
    list(mixed)
    second = synthetic(mixed)
    fresh = loader(pool(), dataset=Endless())
    fresh.set_epoch(1)
    assert draws_before(mixed._inner, mixed._settings, 1) is None
    assert torch.equal(synthetic(fresh), second)


def test_a_pool_that_is_always_fresh_draws_what_its_synthesizer_does():
    noise = NoiseSynthesizer((1, 4, 4), num_classes=2)
    ours, plain = loader(pool(reuse=1), dtype=torch.uint8), loader(noise, dtype=torch.uint8)
    for mixed in (ours, plain):
        mixed.set_epoch(2)
    assert torch.equal(synthetic(ours), synthetic(plain))


def test_a_count_below_zero_is_refused():
    with pytest.raises(ValueError, match="drawn must be at least 0"):
        pool().going_on(-1)
