"""The Trainer of Hugging Face: ``python examples/frameworks/with_transformers.py``.

It prepares its loader itself, so a subclass wraps what comes out. On resuming it would skip batches of the plain
loader, which ``ignore_data_skip`` forbids: the loader's own state says where to go on.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from digits import SYNTHETIC, Net, augmented, digits, summary
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments


class Items(Dataset[dict[str, Any]]):
    """Digits with the names that the Trainer likes."""

    def __init__(self) -> None:
        self.digits = digits()

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label, number = self.digits[index]
        return {"pixel_values": image, "labels": label, "index": number}


class Classifier(torch.nn.Module):
    """Returns loss and logits, as the Trainer expects; keeps the indices of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.seen: list[list[int]] = []

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return both."""
        self.seen.append(index.tolist())
        logits = self.net(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class AugmentedTrainer(Trainer):
    """A Trainer whose training batches come from an AugmentedLoader."""

    loader: Any = None

    def get_train_dataloader(self) -> Any:
        """Return the Trainer's loader, wrapped once, and where a checkpoint said."""
        if self.loader is None:
            fields = {"images": "pixel_values", "labels": "labels", "fill": {"index": SYNTHETIC}}
            self.loader = augmented(super().get_train_dataloader(), fields=fields)
        return self.loader


class SaveLoader(TrainerCallback):
    """Saves the loader's state beside each checkpoint."""

    def __init__(self, trainer: AugmentedTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write it as JSON."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        (folder / "loader.json").write_text(json.dumps(self.trainer.loader.state_dict()))


def train(folder: str, *, epochs: int = 2, resume: Path | None = None) -> tuple[list[list[int]], list[float]]:
    """Train with a checkpoint behind every fifth batch, or from one of them on.

    Returns:
        The indices in each batch, and the losses.
    """
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=50,
        learning_rate=1e-3,
        save_steps=5,
        logging_steps=1,
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
        use_cpu=True,
    )
    net = Classifier()
    trainer = AugmentedTrainer(net, arguments, train_dataset=Items())
    trainer.add_callback(SaveLoader(trainer))
    if resume is not None:
        trainer.get_train_dataloader().load_state_dict(json.loads((resume / "loader.json").read_text()))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return net.seen, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        seen, losses = train(folder, epochs=1)
    print(f"{summary(seen)}; last loss {losses[-1]:.3f}")
