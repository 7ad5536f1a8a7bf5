import pytest
import torch

from torchaug_gen.pixels import check_dtype, convert

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_level_survives_the_way_there_and_back(dtype):
    levels = torch.arange(256, dtype=torch.uint8)
    there = convert(levels, dtype)
    assert there.dtype is dtype and there[0] == 0 and there[-1] == 1
    if dtype is not torch.bfloat16:  # 8 bits of mantissa do not tell all levels near 1 apart
        assert torch.equal(convert(there, torch.uint8), levels)
    assert (convert(there, torch.uint8).int() - levels.int()).abs().max() <= 1


def test_halves_are_rounded_and_rounding_errors_clamped():
    values = torch.tensor([-0.001, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.0000001, 1.0019])
    assert convert(values, torch.uint8).tolist() == [0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_normalised_values_do_not_become_uint8(value):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\] to become torch.uint8, got .* in a floating dtype"):
        convert(torch.tensor([0.5, value]), torch.uint8)


def test_what_needs_no_conversion_comes_as_it_is():
    images = torch.rand(3)
    assert convert(images, None) is images
    assert convert(images, torch.float32) is images
    assert convert(torch.empty(0), torch.uint8).dtype is torch.uint8


def test_the_input_is_never_changed():
    for images, dtype in [(torch.rand(9), torch.uint8), (torch.randint(256, (9,), dtype=torch.uint8), torch.float32)]:
        before = images.clone()
        convert(images, dtype)
        assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, "float32", float])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=r"dtype must be torch.uint8, a floating torch.dtype, or None"):
        check_dtype(dtype)
