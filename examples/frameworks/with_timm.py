"""A loop as timm's train.py has it: ``python examples/frameworks/with_timm.py``.

It tells the sampler the epoch, asks the loader for its length, and takes soft labels, which :class:`MixUp` makes here.
"""

import torch
from digits import augmented, shuffled, summary
from timm import create_model
from timm.loss import SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter

from torchaug_gen import MixUp


def train(epochs: int = 2) -> tuple[list[list[int]], list[float]]:
    """Train a small ViT on mixed digits.

    Returns:
        The indices in each batch, and the mean loss of each epoch.
    """
    torch.manual_seed(0)
    loader = augmented(shuffled(), MixUp(alpha=0.2, num_classes=10))
    net = create_model("test_vit", in_chans=1, img_size=28, patch_size=7, num_classes=10)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs * len(loader), t_in_epochs=False)
    criterion = SoftTargetCrossEntropy()
    seen, means = [], []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        losses = AverageMeter()
        for batch_idx, (images, targets, index) in enumerate(loader):
            loss = criterion(net(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step_update(epoch * len(loader) + batch_idx)
            losses.update(loss.item(), len(images))
            seen.append(index.tolist())
        means.append(losses.avg)
    return seen, means


if __name__ == "__main__":
    seen, means = train(epochs=1)
    print(f"{summary(seen)}; mean loss {means[-1]:.3f}")
