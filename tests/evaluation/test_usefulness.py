import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen.evaluation import usefulness
from torchaug_gen.evaluation.classifier import SmallClassifier
from torchaug_gen.evaluation.usefulness import compare, t_quantile, verdict


@pytest.mark.parametrize(
    ("baseline", "other", "outcome"),
    [
        ([0.80, 0.81, 0.82], [0.85, 0.86, 0.88], "helped"),
        ([0.85, 0.86, 0.88], [0.80, 0.81, 0.82], "hurt"),
        ([0.80, 0.81, 0.82], [0.83, 0.79, 0.82], "no difference beyond noise"),
        # A gain of the same mean as the first, but carried by one seed.
        ([0.80, 0.80, 0.80], [0.80, 0.80, 0.95], "no difference beyond noise"),
        ([0.80, 0.81], [0.80, 0.81], "no difference beyond noise"),
        ([0.5], [0.9], "cannot tell"),
    ],
)
def test_verdict_on_planted_numbers(baseline, other, outcome):
    assert verdict(baseline, other).outcome == outcome


def test_verdict_is_paired():
    # Seeds differ by 20 points, arms by 1: unpaired, this would be noise.
    assert verdict([0.6, 0.7, 0.8], [0.61, 0.711, 0.809]).outcome == "helped"


def test_interval_is_that_of_the_paired_t_test():
    stats = pytest.importorskip("scipy.stats")
    baseline, other = [0.80, 0.82, 0.79, 0.81], [0.83, 0.84, 0.80, 0.85]
    low, high = stats.ttest_rel(other, baseline).confidence_interval(0.95)
    assert verdict(baseline, other).interval == pytest.approx((low, high), abs=1e-5)


def test_sentences():
    helped = verdict([0.80, 0.81, 0.82], [0.85, 0.86, 0.88]).sentence("augmentation")
    assert helped == "augmentation helped (+5.3 points, 95 % interval +3.9 to +6.8, 3 paired seeds)."
    assert "made no difference beyond noise" in verdict([0.5, 0.5], [0.5, 0.6]).sentence("it")
    assert "hurt (-10.0 points" in verdict([0.5, 0.6], [0.4, 0.5]).sentence("it")
    assert "one seed cannot tell" in verdict([0.5], [0.9]).sentence("it")


@pytest.mark.parametrize("pair", [([0.5, 0.6], [0.5]), ([], []), ([50.0, 51.0], [52.0, 53.0]), ([float("nan")], [0.5])])
def test_numbers_that_are_not_paired_accuracies_raise(pair):
    with pytest.raises(ValueError, match=r"paired|in \[0, 1\]"):
        verdict(*pair)


def test_t_quantiles_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for degrees in [*range(1, 41), 100, 1000]:
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)
    with pytest.raises(ValueError, match="degrees must be at least 1"):
        t_quantile(0)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(12, 1, 8, 8, generator=generator), torch.arange(12) % 3)


def small(num_classes=3):
    return SmallClassifier((1, 8, 8), num_classes, width=8)


def test_arms_that_are_the_same_score_the_same_and_leave_the_global_generator_alone(data):
    def loader(seed):
        return DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(seed))

    before = torch.get_rng_state()
    arguments = {"make_classifier": small, "steps": 4, "seeds": [3, 4]}
    test = DataLoader(data, batch_size=5)
    scores = compare({"one": loader, "two": loader}, test, **arguments)
    assert scores["one"] == scores["two"]
    assert [len(s) for s in scores.values()] == [2, 2]
    assert scores == compare({"one": loader, "two": loader}, test, **arguments)
    assert torch.equal(before, torch.get_rng_state())


def test_arms_get_the_same_seeds_steps_and_initial_weights(data, monkeypatch):
    seen = []

    def spy(classifier, loader, steps, **_):
        seen.append((loader, steps, classifier.head.weight.detach().clone()))

    monkeypatch.setattr(usefulness, "fit", spy)
    arms = {name: lambda seed, name=name: (name, seed) for name in "ab"}
    compare(arms, DataLoader(data), make_classifier=small, steps=7, seeds=[1, 2])
    assert [loader for loader, _, _ in seen] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert {steps for _, steps, _ in seen} == {7}
    assert torch.equal(seen[0][2], seen[1][2])
    assert not torch.equal(seen[0][2], seen[2][2])


@pytest.mark.parametrize(("arms", "seeds"), [({}, [0]), ({"a": list}, []), ({"a": list}, [1, 1])])
def test_nothing_to_compare_raises(arms, seeds, data):
    with pytest.raises(ValueError, match="needs arms and seeds, all different"):
        compare(arms, DataLoader(data), make_classifier=small, steps=1, seeds=seeds)
