"""Over several processes: equal step counts, nothing twice, and numbers that do not depend on how many there are."""

import json
import os
import socket
import subprocess
import sys
import warnings

import pytest
import torch
from fakes import Coded, drawn, mixed, real_ids, stock
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.transforms import v2

from torchaug_gen import AugmentedLoader, fuse

SCRIPT = """
import json, os, sys, warnings
sys.path[:0] = sys.argv[2:]
import torch.distributed as dist
from test_ranks import report
dist.init_process_group("gloo")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    answer = report()
    answer["warned"] = [str(one.message) for one in warned if "ranks reads" in str(one.message)]
with open(os.path.join(sys.argv[1], f"{dist.get_rank()}.json"), "w") as file:
    json.dump(answer, file)
dist.barrier()
dist.destroy_process_group()
"""

FRACTIONS = {"rebatch": 0.3, "extend": 0.4, "replace": 0.25}


def scheduled(epoch, step):
    return [0.0, 0.5, 0.25][(epoch + step) % 3]


def shared(length=47, batch_size=6, fraction=0.3, mixing="rebatch", workers=0):
    data = Coded(length)
    sampler = DistributedSampler(data, seed=3) if torch.distributed.is_initialized() else DistributedSampler(data, 1, 0)
    inner = DataLoader(data, batch_size, sampler=sampler, num_workers=workers)
    return mixed(inner, fraction, mixing=mixing, dtype=torch.uint8, prefetch=1)


def report():
    """Return what this rank delivers, for the parent to compare."""
    answer = {}
    for mixing, fraction in FRACTIONS.items():
        loader = shared(fraction=fraction, mixing=mixing)
        epochs = [list(loader), list(loader)]
        answer[mixing] = {
            "len": len(loader),
            "steps": [len(epoch) for epoch in epochs],
            "real": [[index for images, _ in epoch for index in real_ids(images)] for epoch in epochs],
            "drawn": [[row for images, _ in epoch for row in drawn(images)] for epoch in epochs],
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer["scheduled"] = [sum(1 for _ in loader) for loader in [shared(fraction=scheduled)] * 3]
    loader = shared()
    running = iter(loader)
    next(running), next(running)
    state = loader.state_dict()
    # Where it is only a number, the state of one rank serves all of them, as frameworks save it.
    state["rank"] = 0
    resumed = shared()
    resumed.load_state_dict(state)
    answer["resumed"] = [real_ids(images) for images, _ in resumed] == [real_ids(images) for images, _ in running]
    bare = mixed(DataLoader(Coded(12), 4), 0.3)
    list(bare), list(bare)
    return answer


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = [path for path in sys.path if path.endswith(("tests", "loading"))]
    processes = []
    for index in range(request.param):
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**os.environ, **address, "RANK": str(index), "WORLD_SIZE": str(request.param)}
        environment["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-c", SCRIPT, str(folder), *folders]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait(120) for process in processes] == [0] * request.param
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(request.param)]


@pytest.mark.parametrize("mixing", FRACTIONS)
def test_all_ranks_take_the_same_number_of_steps(ranks, mixing):
    assert len({tuple(one[mixing]["steps"]) for one in ranks}) == 1
    assert all(one[mixing]["len"] == one[mixing]["steps"][0] for one in ranks)
    assert len({tuple(one["scheduled"]) for one in ranks}) == 1


@pytest.mark.parametrize("mixing", FRACTIONS)
def test_ranks_share_the_items_out(ranks, mixing):
    for epoch in range(2):
        real = sorted(index for one in ranks for index in one[mixing]["real"][epoch])
        if mixing != "replace":
            # The sampler fills up with its first items where the length does not divide.
            assert set(real) == set(range(47)) and len(real) == -(-47 // len(ranks)) * len(ranks)
        positions = [row[0] for one in ranks for row in one[mixing]["drawn"][epoch]]
        assert len(set(positions)) == len(positions)
        for index, one in enumerate(ranks):
            assert [row[0] for row in one[mixing]["drawn"][epoch]] == [
                number * len(ranks) + index for number in range(len(one[mixing]["drawn"][epoch]))
            ]


def test_one_state_serves_all_ranks_where_indices_decide(ranks):
    assert all(one["resumed"] for one in ranks)


def test_a_loader_that_no_sampler_shares_out_warns_once(ranks):
    for one in ranks:
        [message] = one["warned"]
        assert f"each of {len(ranks)} ranks reads the whole data set: give the loader a" in message


@pytest.mark.parametrize("world", [2, 3])
def test_numbers_do_not_depend_on_how_many_ranks_there_are(world):
    """Row i of rank r is item ``i · world + r`` of the order that one rank would have, and is treated alike."""
    data = Coded(48)

    def passes(count, index):
        sampler = DistributedSampler(data, count, index, shuffle=True, seed=2)
        loader = AugmentedLoader(
            DataLoader(data, 24 // count, sampler=sampler), fuse([v2.ColorJitter(0.4, 0.4)]), seed=4, prefetch=0
        )
        return torch.cat([images for images, _ in loader])

    alone = passes(1, 0)
    together = torch.stack([passes(world, index) for index in range(world)], dim=1).flatten(0, 1)
    assert torch.equal(alone, together)


def test_the_length_of_an_epoch_is_counted_once():
    asked = []

    def schedule(epoch, step):
        asked.append((epoch, step))
        return 0.3

    loader = mixed(stock(40, 4), schedule, prefetch=0)
    length = len(loader)
    assert len(asked) == len(set(asked)) and {epoch for epoch, _ in asked} == {0}
    asked.clear()
    running = iter(loader)
    next(running)
    # The first batches alone are planned.
    assert len(loader) == length and max(asked) < (0, 4)
    del running
    # Another epoch is counted anew.
    asked.clear()
    assert len(loader) == length == len(asked) and min(asked) == (1, 0)


def test_a_schedule_that_changes_the_length_warns_once():
    loader = mixed(stock(40, 4), lambda epoch, step: 0.25 * min(epoch, 2))
    assert len(loader) == 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader)) == 10
    with pytest.warns(RuntimeWarning, match="epoch 1 has 14 batches, but an earlier one had 10"):
        assert len(list(loader)) == 14
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader)) == 20
    constant = mixed(stock(40, 4), lambda epoch, step: 0.3, mixing="extend")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(constant), list(constant)
