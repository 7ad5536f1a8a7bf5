"""Ignite, with a checkpoint in the middle of an epoch: ``python examples/frameworks/with_ignite.py``."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from digits import Net, augmented, shuffled, summary
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from torch.nn import functional as F


def train(folder: Path, *, epochs: int = 2, resume: Path | None = None) -> tuple[list[list[int]], list[float]]:
    """Train with a checkpoint behind every fourth batch, or from one of them on.

    Returns:
        The indices in each batch, and the losses.
    """
    loader, net = augmented(shuffled()), Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    seen, losses = [], []

    def step(_: Engine, batch: Any) -> None:
        images, labels, index = batch
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(index.tolist())
        losses.append(loss.item())

    trainer = Engine(step)
    parts = {"trainer": trainer, "net": net, "optimizer": optimizer, "loader": loader}
    saver = Checkpoint(parts, DiskSaver(folder, require_empty=False), n_saved=None)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=4), saver)
    if resume is not None:
        # Ignite loads only what torch has classes for; the loader's state is plain JSON.
        saved = torch.load(resume, weights_only=True)
        loader.load_state_dict(saved.pop("loader"))
        Checkpoint.load_objects({name: parts[name] for name in saved}, saved)
    trainer.run(loader, max_epochs=epochs, epoch_length=len(loader))
    return seen, losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seen, losses = train(Path(folder), epochs=1)
    print(f"{summary(seen)}; last loss {losses[-1]:.3f}")
