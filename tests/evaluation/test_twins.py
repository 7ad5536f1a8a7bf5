import torch

from torchaug_gen.evaluation.twins import find_twins


def test_twins_are_the_same_in_every_pixel():
    known = torch.randint(0, 256, (30, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    almost = known[:4].clone()
    almost[:, 2, 4, 3] ^= 1
    images = torch.cat((almost, known[7:9], known[3:4].flip(-1)))
    assert find_twins(images, known).tolist() == [False] * 4 + [True] * 2 + [False]
    # However the same bytes lie in memory.
    assert find_twins(known.to(memory_format=torch.channels_last), known).all()


def test_none_among_none():
    none = torch.empty(0, 1, 4, 4, dtype=torch.uint8)
    assert find_twins(none, none).shape == (0,) and find_twins(none, none).dtype is torch.bool
    assert not find_twins(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), none).any()
