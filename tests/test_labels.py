import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from torchaug_gen.labels import check_labels, class_names, soft_labels


class Named(TensorDataset):
    classes = ("cat", "dog")


def test_class_names_are_found_through_subsets():
    data = Named(torch.zeros(4))
    assert class_names(data) == class_names(Subset(Subset(data, [0, 1]), [0])) == ("cat", "dog")
    assert class_names(TensorDataset(torch.zeros(4))) is None
    assert class_names(None) is None


def test_hard_labels_become_one_hot_and_soft_ones_stay():
    assert soft_labels(torch.tensor([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    soft = torch.rand(2, 3)
    assert soft_labels(soft, None) is soft
    with pytest.raises(ValueError, match="num_classes"):
        soft_labels(torch.tensor([1]), None)


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3]])
def test_labels_out_of_range_are_named(labels):
    with pytest.raises(ValueError, match=rf"labels must be in 0\.\.2, got {labels[0]}\.\.{labels[1]}"):
        check_labels(torch.tensor(labels), 3)
    check_labels(torch.tensor([], dtype=torch.int64), 3)
