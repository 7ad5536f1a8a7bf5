"""The order in which a training takes its images."""

from dataclasses import replace

import pytest
import torch
from small_training import squares

from torchaug_gen.ranks import Share
from torchaug_gen.synthesis.training.batches import take

HERE = {"seed": 0, "device": torch.device("cpu")}


def test_batches_are_an_endless_chain_of_shuffles():
    images = squares(10)
    batches = [take(images, position=position, size=4, **HERE) for position in range(0, 40, 4)]
    order = torch.cat([batch.images.flatten(1) for batch in batches])
    everything = images.images.flatten(1).float().div(255).unique(dim=0)
    shuffles = order.split(10)
    assert all(torch.equal(shuffle.unique(dim=0), everything) for shuffle in shuffles)
    assert not torch.equal(shuffles[0], shuffles[1])
    assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(40))
    for batch in batches:
        assert torch.equal(batch.labels, (batch.images.flatten(1).mean(dim=1) > 0.4).long())


def test_a_batch_may_be_larger_than_the_data():
    assert len(take(squares(10), position=7, size=25, **HERE).images) == 25
    assert len(take(squares(1), position=7, size=3, **HERE).images) == 3


def test_without_labels():
    assert take(replace(squares(), labels=None, num_classes=None), position=0, size=4, **HERE).labels is None


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_the_rows_of_a_batch(count):
    whole = take(squares(10), position=16, size=8, **HERE)
    parts = [take(squares(10), position=16, size=8, **HERE, share=Share(rank, count)) for rank in range(count)]
    for mine, shared in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(mine, torch.cat(shared))
