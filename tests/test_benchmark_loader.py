"""What the benchmarks of the loader count."""

import time

import pytest
import torch

from benchmarks import loader_memory, passes, resident
from benchmarks.passes import Question


def test_no_more_batches_are_alive_than_may_be(monkeypatch):
    images = torch.zeros(12 * loader_memory.BATCH, 1, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr(loader_memory, "digits", lambda: (images, torch.zeros(len(images), dtype=torch.int64)))
    for prefetch in (0, 2):
        most = loader_memory.alive(prefetch, batches=12)
        # The one that the consumer holds, at least, and what is made ahead of it.
        assert 1 + prefetch // 2 <= most <= prefetch + 2


def test_a_batch_is_alive_as_long_as_any_form_of_it_is():
    census = loader_memory.Census()
    items = [(torch.zeros(1), torch.tensor(0))]
    transform = census.following(lambda images: images + 1)
    first, _ = census.collate(items)
    delivered = transform(first)
    del first
    census.collate(items)
    assert census.most == 2
    del delivered
    census.collate(items)
    assert census.most == 2


def question(**options):
    return Question("theirs", {"theirs": lambda: 100, "ours": lambda: 100}, **options)


def test_real_images_are_told_apart():
    case = question(real={"ours": 0.7}).case(rounds=5, seconds=1)
    assert case["real_per_second"] == {"ours": pytest.approx(0.7 * case["summary"]["ours"]["median"])}


def test_a_question_has_its_own_rounds_and_its_limit_is_no_contestant():
    case = question(rounds=6, limit=("the least", lambda: 100)).case(rounds=50, seconds=60)
    assert set(case["summary"]) == {"theirs", "ours"}
    assert case["summary"]["ours"]["rounds"] == 6
    assert case["limit"]["what"] == "the least"


def test_steps_are_times_of_as_many_images():
    def work():
        time.sleep(0.002)
        return 10

    case = Question("a", {"a": work}).case_of_steps(batch_size=100, rounds=5, seconds=1)
    assert case["better"] == "lower"
    assert case["summary"]["a"]["median"] >= 20


def test_training_counts_images_and_learns_from_each():
    batches = [(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))] * 3
    assert passes.trained(batches) == passes.counted(batches) == 12


def test_the_most_memory_is_that_since_it_was_forgotten():
    held = torch.ones(64 << 18)  # 64 MiB
    before = resident.most()
    del held
    resident.forget_most()
    assert resident.most() < before - 32
    assert resident.now() <= resident.most()
