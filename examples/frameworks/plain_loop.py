"""A loop of your own, which stops in the middle of an epoch and goes on.

Run it with ``python examples/frameworks/plain_loop.py``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from digits import Net, augmented, shuffled, summary
from torch.nn import functional as F


def train(checkpoint: Path, *, epochs: int = 2, stop_after: int | None = None) -> tuple[list[list[int]], list[float]]:
    """Train from a checkpoint on, if there is one.

    Returns:
        The indices in each batch, and the losses.
    """
    loader, net = augmented(shuffled()), Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    epoch, seen, losses = 0, [], []
    if checkpoint.exists():
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        # The state is JSON, so it may lie in any file.
        state = json.loads(saved["loader"])
        loader.load_state_dict(state)
        epoch = state["epoch"]
    for _ in range(epoch, epochs):
        for images, labels, index in loader:
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(index.tolist())
            losses.append(loss.item())
            if len(losses) == stop_after:
                states = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(states | {"loader": json.dumps(loader.state_dict())}, checkpoint)
                return seen, losses
    return seen, losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        first, _ = train(path, epochs=1, stop_after=4)
        rest, losses = train(path, epochs=1)
    print(f"{summary([*first, *rest])}; last loss {losses[-1]:.3f}")
