"""How long it takes until a stream of 10,000 samples gives its first batch, from the start and from the middle."""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from torchaug_gen import AugmentedLoader, JpegFolder, ShardStream

SAMPLES = 10_000


def write_many(folder: Path, photographs: Path) -> None:
    """Write 10,000 samples, so that the middle of an epoch is far from its start."""
    from torchaug_gen.shards.files import ImageFiles
    from torchaug_gen.shards.write import write_shards

    files = ImageFiles(photographs)
    # Without their keys, which would come twice.
    held = [{name: value for name, value in files[n].items() if name != "__key__"} for n in range(len(files))]
    items: Iterator[dict[str, Any]] = (held[n % len(held)] for n in range(SAMPLES))
    write_shards(items, folder / "many", samples_per_shard=1000, classes=files.classes)


def resume(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds until the first batch of 10,000 samples, from the start and from a saved middle."""

    def loader(workers: int) -> Any:
        stream = ShardStream(folder / "many", batch_size=arguments.batch_size)
        return AugmentedLoader(
            DataLoader(stream, arguments.batch_size, num_workers=workers, collate_fn=JpegFolder.collate),
            device="cpu",
            dtype=None,
        )

    def first(workers: int, state: Any) -> float:
        begin = time.perf_counter()
        made = loader(workers)
        if state is not None:
            made.load_state_dict(state)
        next(batches := iter(made))
        seconds = time.perf_counter() - begin
        del batches
        return seconds

    found: dict[str, Any] = {"unit": "seconds until the first batch", "samples": SAMPLES}
    for workers in arguments.workers:
        made = loader(workers)
        batches = iter(made)
        for _ in islice(batches, SAMPLES // 2 // arguments.batch_size):
            pass
        state = json.loads(json.dumps(made.state_dict()))
        del batches
        times: dict[str, list[float]] = {"from the start": [], "from the middle": []}
        for _ in range(max(3, arguments.rounds)):
            times["from the start"].append(round(first(workers, None), 4))
            times["from the middle"].append(round(first(workers, state), 4))
        found[f"workers={workers}"] = times | {"state_bytes": len(json.dumps(state))}
    return found
