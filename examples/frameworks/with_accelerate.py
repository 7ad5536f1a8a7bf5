"""Accelerate with gradient accumulation: ``python examples/frameworks/with_accelerate.py``.

``prepare`` first, then wrap: Accelerate would rebuild a loader that it knows, and leave alone what it does not.
"""

import tempfile
from typing import Any

import torch
from accelerate import Accelerator
from digits import Net, augmented, shuffled, summary
from torch.nn import functional as F


def train(folder: str, *, stop_after: int | None = None, resume: bool = False) -> dict[str, Any]:
    """Train for an epoch, from the folder's checkpoint on where asked to.

    Returns:
        The indices in each batch, the losses, how many optimizer steps were taken, and the number of batches.
    """
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    net = Net()
    net, optimizer, inner = accelerator.prepare(net, torch.optim.SGD(net.parameters(), 0.05), shuffled())
    loader = augmented(inner)
    # Its state is saved and loaded with everything else.
    accelerator.register_for_checkpointing(loader)
    if resume:
        accelerator.load_state(folder)
    seen, losses, steps = [], [], 0
    for images, labels, index in loader:
        with accelerator.accumulate(net):
            loss = F.cross_entropy(net(images), labels)
            accelerator.backward(loss)
            steps += accelerator.sync_gradients
            optimizer.step()
            optimizer.zero_grad()
        seen.append(index.tolist())
        losses.append(loss.item())
        if len(losses) == stop_after:
            accelerator.save_state(folder)
            break
    return {"seen": seen, "losses": losses, "steps": steps, "batches": len(loader)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        first, rest = train(folder, stop_after=4), train(folder, resume=True)
    print(f"{summary([*first['seen'], *rest['seen']])}; {first['steps'] + rest['steps']} optimizer steps")
