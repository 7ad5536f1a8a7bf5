from unittest.mock import Mock

from torch.utils.data import DataLoader, Subset

from torchaug_gen import AugmentedLoader, NoiseSynthesizer
from torchaug_gen.wrapped import unwrapped


def test_data_sets_are_found_from_the_outside_in():
    inner = Subset([1, 2, 3], [0, 1])
    outer = Subset(inner, [0])
    assert list(unwrapped(outer)) == [outer, inner, [1, 2, 3]]
    assert list(unwrapped(None)) == []


def test_a_data_set_that_holds_itself_ends():
    mock = Mock(train=True, split="train", classes=None, num_classes=None)
    mock.dataset = mock
    mock.__len__ = Mock(return_value=4)
    assert list(unwrapped(mock)) == [mock]
    AugmentedLoader(DataLoader(mock), synthesizer=NoiseSynthesizer((1, 2, 2)), synthetic_fraction=0.5)
