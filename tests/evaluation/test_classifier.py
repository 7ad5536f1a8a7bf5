import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchaug_gen.evaluation.classifier import Accuracy, SmallClassifier, accuracy, fit


def left_or_right(n: int = 64, *, side: int = 8) -> TensorDataset:
    """Return two classes that any classifier can tell apart: the left or the right half is brighter."""
    labels = torch.arange(n) % 2
    images = 0.4 * torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, :, : side // 2] += 0.6
    images[labels == 1, :, :, side // 2 :] += 0.6
    return TensorDataset(images, labels)


class Says(nn.Module):
    """A classifier that answers with the value of each image's first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (5, 128, 96), (3, 31, 17)])
def test_any_size_and_channels(shape):
    logits = SmallClassifier(shape, 7)(torch.rand(2, *shape))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 7, 28), 10), r"sides in 8\.\.128, got \(1, 7, 28\)"),
        (((3, 256, 256), 10), r"got \(3, 256, 256\)"),
        (((1, 28, 28), 1), "num_classes must be at least 2, got 1"),
    ],
)
def test_sizes_out_of_range_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmallClassifier(*arguments)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    classifier = SmallClassifier((1, 12, 12), 3).train()
    images = torch.rand(4, 1, 12, 12)
    torch.testing.assert_close(classifier(images)[:1], classifier(images[:1]))


def test_fit_learns_and_counts_steps():
    torch.manual_seed(0)
    classifier = SmallClassifier((1, 8, 8), 2, width=8)
    loader = DataLoader(left_or_right(), batch_size=16)

    class Bar:
        steps = 0

        def update(self):
            self.steps += 1

    bar = Bar()
    fit(classifier, loader, 30, progress=bar)
    assert bar.steps == 30
    assert accuracy(classifier, loader).micro > 0.9


def test_fit_takes_soft_labels():
    images, labels = left_or_right().tensors
    soft = nn.functional.one_hot(labels, 2).float()
    torch.manual_seed(0)
    classifier = SmallClassifier((1, 8, 8), 2, width=8)
    fit(classifier, [(images, soft)], 30)
    assert accuracy(classifier, [(images, labels)]).micro > 0.9


def test_fit_leaves_no_iterator_open():
    closed = []

    class Loader:
        def __iter__(self):
            try:
                while True:
                    yield torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
            finally:
                closed.append(True)

    fit(SmallClassifier((1, 8, 8), 2, width=8), Loader(), 2)
    assert closed == [True]


def test_empty_loaders_and_no_steps_raise():
    classifier = SmallClassifier((1, 8, 8), 2, width=8)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        fit(classifier, [], 1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        fit(classifier, [], 0)
    with pytest.raises(ValueError, match="at least one batch"):
        accuracy(classifier, [])


def test_micro_counts_images_and_macro_counts_classes():
    # Class 0: 3 of 3 right, class 2: 0 of 1 right; class 1 does not occur and does not count.
    answers = torch.tensor([0.0, 0.0, 0.0, 1.0]).reshape(4, 1, 1, 1)
    assert accuracy(Says(), [(answers, torch.tensor([0, 0, 0, 2]))]) == Accuracy(micro=0.75, macro=0.5)
