"""Lightning, with checkpoints in the middle of an epoch, and on several devices.

Run it with ``python examples/frameworks/with_lightning.py --devices 2``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import lightning
import torch
from digits import Net, augmented, digits, summary
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler


class Module(lightning.LightningModule):
    """Trains the network; keeps the indices of each batch, and the losses."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: list[list[int]] = []
        self.losses: list[float] = []

    def train_dataloader(self) -> Any:
        """Return the loader. Lightning gives stock loaders a distributed sampler; ours we give one ourselves."""
        data, trainer = digits(), self.trainer
        sampler: Any = RandomSampler(data)
        if trainer.world_size > 1:
            sampler = DistributedSampler(data, trainer.world_size, trainer.global_rank)
        return augmented(DataLoader(data, 50 // trainer.world_size, sampler=sampler))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """Return the loss."""
        images, labels, index = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.seen.append(index.tolist())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD."""
        return torch.optim.SGD(self.parameters(), 0.05)


def train(folder: Path, *, epochs: int = 2, devices: int = 1, resume: Path | None = None) -> Module:
    """Train with a checkpoint behind every fifth batch, or from one of them on, and return what was trained."""
    module = Module()
    checkpoints = ModelCheckpoint(dirpath=folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    strategy = "ddp" if devices > 1 else "auto"
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=devices, strategy=strategy, callbacks=[checkpoints], **quiet
    )
    # Checkpoints hold the loader's state, which is JSON: nothing in them has to be trusted.
    trainer.fit(module, ckpt_path=resume, weights_only=True)
    (folder / f"seen-{trainer.global_rank}.json").write_text(json.dumps([module.seen, module.losses]))
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("lightning_checkpoints"))
    arguments = parser.parse_args()
    module = train(arguments.out, epochs=arguments.epochs, devices=arguments.devices)
    print(f"rank {module.global_rank}: {summary(module.seen)}; last loss {module.losses[-1]:.3f}")
