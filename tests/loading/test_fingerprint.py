"""A state is gone on with only under the settings that decide which items come when; what differs is named."""

import json

import pytest
from fakes import CLASSES, Drawn, mixed, same, stock

from torchaug_gen import NoiseSynthesizer, SyntheticPool, schedules
from torchaug_gen.synthesis import gates


def go_on(saved, other, epoch=0):
    """Load a state of the middle of an epoch into another loader; return what follows there and what would have."""
    saved.set_epoch(epoch)
    running = iter(saved)
    next(running), next(running)
    other.load_state_dict(json.loads(json.dumps(saved.state_dict())))
    return list(other), list(running)


class Third:
    """A gate that says nothing of itself."""

    def passes(self, images, labels, *, seed, epoch, positions):
        return positions % 3 != 1


def pool(synthesizer=None, **changed):
    settings = {"capacity": 80, "reuse": 2, "gates": gates.SharpnessGate(low=0.0, high=1e9), **changed}
    return SyntheticPool(Drawn() if synthesizer is None else synthesizer, **settings)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"capacity": 200}, "'capacity': 80.* but this loader has synthesizer=.*'capacity': 200"),
        ({"reuse": 7}, "'reuse': 2.* but this loader has synthesizer=.*'reuse': 7"),
        ({"lanes": 2}, "'lanes': 1.* but this loader has synthesizer=.*'lanes': 2"),
        ({"weights": [8.0, 1.0, 1.0, 1.0, 1.0]}, "'layout'"),
        ({"gates": ()}, "'gates'"),
        ({"gates": gates.SharpnessGate(low=1.0, high=2.0)}, r"SharpnessGate\(low=0, .*SharpnessGate\(low=1, high=2\)"),
        ({"synthesizer": NoiseSynthesizer((3, 4, 4), num_classes=CLASSES)}, "'Drawn'.*'NoiseSynthesizer'"),
    ],
)
def test_another_pool_is_refused(changed, words):
    with pytest.raises(ValueError, match=f"the state was saved with synthesizer=.*{words}"):
        go_on(mixed(stock(), 0.5, synthesizer=pool()), mixed(stock(), 0.5, synthesizer=pool(**changed)))


def test_the_same_pool_is_not():
    for gate in (gates.SharpnessGate(low=0.0, high=1e9), Third()):
        one, other = (mixed(stock(), 0.5, synthesizer=pool(gates=gate)) for _ in range(2))
        assert same(*go_on(one, other))


def test_another_range_of_noise_is_refused():
    noise = [NoiseSynthesizer((3, 4, 4), high=high, num_classes=CLASSES) for high in (1.0, 0.1)]
    with pytest.raises(ValueError, match=r"'high': 1.0.*'high': 0.1"):
        go_on(*(mixed(stock(), 0.5, synthesizer=one) for one in noise))


def only_at(epoch, step):
    """Return a schedule that differs from a plain half nowhere but there."""
    return lambda *place: 0.25 if place == (epoch, step) else 0.5


def half(epoch, step):
    return 0.5


@pytest.mark.parametrize(
    ("fraction", "other"),
    [
        (schedules.anneal(0.3, total_epochs=40), schedules.anneal(0.3, total_epochs=50)),
        (schedules.warmup(half, epochs=31), schedules.warmup(half, epochs=32)),
        (half, only_at(30, 2)),
        (half, only_at(30, 4)),
        (half, only_at(32, 0)),
        ({1: half}, {1: only_at(30, 4)}),
        (half, 0.5),
    ],
)
def test_a_schedule_that_differs_ahead_is_refused(fraction, other):
    with pytest.raises(ValueError, match=r"saved with synthetic_fraction=.* but this loader has synthetic_fraction="):
        go_on(mixed(stock(40), fraction), mixed(stock(40), other), epoch=30)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.recommended(total_epochs=50),
        lambda: schedules.warmup(lambda epoch, step: 0.4, epochs=3),
        lambda: lambda epoch, step: [0.1, 0.3, 0.5][epoch],  # a table that ends with the training
        lambda: {1: 0.5, 2: lambda epoch, step: [0.1, 0.3, 0.5][epoch]},
    ],
)
def test_the_same_schedule_made_anew_is_not(make):
    assert same(*go_on(mixed(stock(40), make()), mixed(stock(40), make()), epoch=2))
