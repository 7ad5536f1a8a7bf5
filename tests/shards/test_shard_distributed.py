"""Real processes that share an epoch through torch.distributed."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from shard_files import consumer, labels_of, make_shards

from torchaug_gen.ranks import Share
from torchaug_gen.shards.stream import ShardStream

SCRIPT = """
import json, os, sys, warnings
import torch.distributed as dist
from torch.utils.data import DataLoader
sys.path.insert(0, os.environ["HERE"])
from shard_files import FIELDS, labels_of
from torchaug_gen.shards.stream import ShardStream

rank, ranks, port = map(int, sys.argv[1:4])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
told = []
for index, even in (("auto", "pad"), ("auto", "drop"), ("auto", None), (None, None)):
    stream = ShardStream(sys.argv[4], fields=FIELDS, shuffle=5, index=index, even=even, batch_size=2, on_error="raise")
    for workers, context in ((0, None), (1, "fork"), (1, "spawn")):
        if workers and even != "pad":
            continue
        loader = DataLoader(stream, 2, num_workers=workers, multiprocessing_context=context, collate_fn=list)
        labels = labels_of(item for batch in loader for item in batch)
        gathered = [None] * ranks
        dist.all_gather_object(gathered, labels)
        told.append([index, even, gathered])
if rank == 0:
    print(json.dumps(told))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_an_epoch(tmp_path, ranks):
    make_shards(tmp_path / "shards", [5, 2, 4], index=True)
    (tmp_path / "run.py").write_text(
        f"if __name__ == '__main__':\n    {SCRIPT.strip().replace(chr(10), chr(10) + '    ')}"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parents[1]), str(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HERE": str(here), "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), str(rank), str(ranks), str(port), str(tmp_path / "shards")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, outputs
    told = json.loads(outputs[0][0].strip().splitlines()[-1])
    assert len(told) == 6
    for _, even, parts in told:
        together = sorted(label for part in parts for label in part)
        if even is None:
            assert together == list(range(11))
        else:
            assert len({len(part) for part in parts}) == 1
            assert set(together) == set(range(11)) if even == "pad" else len(set(together)) == 11 // ranks * ranks
    # Fork, spawn and no worker at all deliver the same.
    assert told[0] == told[1] == told[2]


def test_a_stream_tells_spawned_workers_their_rank(tmp_path, monkeypatch):
    make_shards(tmp_path, [6], index=True)
    stream = ShardStream(tmp_path, fields=("png", "cls", "__key__", "__url__"), shuffle=0)
    with monkeypatch.context() as patch:
        # As torch.distributed says, which a spawned worker does not see.
        for module in ("torchaug_gen.ranks.rank", "torchaug_gen.shards.stream.rank"):
            patch.setattr(module, lambda: Share(1, 2))
        sent = pickle.dumps(stream)
    with consumer(0, 1):
        assert labels_of(pickle.loads(sent)) == [1, 3, 5]
    # Elsewhere it is nobody's.
    assert labels_of(pickle.loads(sent)) == list(range(6))
