"""The loader counts what it delivers, and says where time goes."""

import time

import pytest
import torch
from fakes import CLASSES, Drawn, drawn, mixed, stock

from torchaug_gen import AugmentedLoader
from torchaug_gen.loading.stats import Stats


def test_items_are_counted_by_class():
    loader = mixed(stock(23, 4), 0.4)
    batches = [*loader, *loader]
    assert loader.stats.batches == len(batches) and loader.stats.real == 46
    assert loader.stats.real_by_class == [2 * len(range(first, 23, CLASSES)) for first in range(CLASSES)]
    classes = torch.tensor([label for images, _ in batches for _, _, label in drawn(images)])
    assert loader.stats.synthetic == len(classes)
    assert loader.stats.synthetic_by_class == torch.bincount(classes, minlength=CLASSES).tolist()


def test_labels_that_are_no_classes_are_not_counted():
    batch = torch.rand(4, 3, 4, 4), torch.full((4, 2), 0.5)
    loader = AugmentedLoader([batch, (batch[0], torch.tensor([-1, 0, 1, 2]))], tag="t")
    list(loader)
    assert loader.stats.batches == 2 and loader.stats.real_by_class == []


class SlowlyDrawn(Drawn):
    def draw(self, labels, **options):
        time.sleep(0.02)
        return super().draw(labels, **options)


def slowly(images):
    time.sleep(0.02)
    return images


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("loading", {"inner": {"collate_fn": lambda items: slowly(torch.utils.data.default_collate(items))}}),
        ("drawing", {"synthesizer": SlowlyDrawn()}),
        ("transforming", {"transform": slowly}),
    ],
)
def test_seconds_go_to_the_part_that_takes_them(part, options):
    loader = mixed(stock(24, 4, **options.pop("inner", {})), 0.5, prefetch=0, **options)
    list(loader)
    assert loader.stats.slowest == part and getattr(loader.stats, part) > 0.12
    assert loader.stats.waited >= getattr(loader.stats, part)
    assert f"{part} {getattr(loader.stats, part):.1f} s" in str(loader.stats)


def test_a_bottleneck_is_said_once():
    stats = Stats(loading=20.0, drawing=1.0)
    stats.waited_for(10.0, consumed=10.0)
    with pytest.warns(RuntimeWarning, match=r"bottleneck: 67% of 45 s .* into loading: give the inner loader more wor"):
        stats.waited_for(20.0, consumed=5.0)
    stats.waited_for(20.0, consumed=5.0)
    Stats().waited_for(20.0, consumed=30.0)


def test_a_synthesizers_own_stats_are_shown():
    class Pool(Drawn):
        stats = "7 drawn"

    assert str(mixed(stock(), synthesizer=Pool()).stats).endswith("; 7 drawn")
