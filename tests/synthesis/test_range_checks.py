import pytest
import torch

from torchaug_gen.synthesis import range_checks
from torchaug_gen.synthesis.range_checks import RangeChecks


@pytest.mark.parametrize("bad", [1.5, -0.5, float("nan")])
def test_bad_images_are_named_when_the_context_is_entered_again(bad):
    checks, images = RangeChecks(), torch.full((3, 1, 2, 2), 0.5)
    images[1, 0, 1, 1] = bad
    with checks:
        assert range_checks.running() is checks
        checks.add(images, torch.tensor([7, 8, 9]))
    assert range_checks.running() is None
    with pytest.raises(ValueError, match="at position 8"), checks:
        pass
    # Who goes on does not meet it again.
    with checks:
        pass
    assert range_checks.running() is None


def test_the_last_images_are_looked_at_in_the_end():
    checks = RangeChecks()
    with checks:
        checks.add(torch.ones(1, 1, 2, 2), torch.tensor([0]))
        checks.add(torch.full((1, 1, 2, 2), 2.0), torch.tensor([1]))
    with pytest.raises(ValueError, match="values from 2 to 2 at position 1"):
        checks.finish()
    checks.finish()


def test_rounding_is_no_fault():
    checks = RangeChecks()
    with checks:
        checks.add(torch.tensor([-0.001, 1.001]).view(1, 1, 1, 2), torch.tensor([0]))
    checks.finish()
