import kornia.augmentation as K
import pytest
import torch
from torchvision.transforms import v2

from torchaug_gen import MixUp
from torchaug_gen.augment.program import Program
from torchaug_gen.augment.rows import Key, rows_of

KEY = Key(seed=3, epoch=1, batch=2)
REAL, SYNTHETIC = torch.rand(3, 3, 8, 8), torch.rand(2, 3, 8, 8)
ROWS = torch.tensor([0, 1, 3]), torch.tensor([2, 4])


def parts(real=REAL, synthetic=SYNTHETIC):
    return [rows_of(real, ROWS[0]), rows_of(synthetic, ROWS[1])]


def run(transform, parts, labels=None, *, dtype=torch.float32, **options):
    return Program(transform, dtype=dtype)(parts, labels, KEY, **options)[0]


def test_rows_are_joined_in_their_order():
    images, labels, _ = run(None, parts(), dtype=None)
    assert labels is None
    assert torch.equal(images[ROWS[0]], REAL) and torch.equal(images[ROWS[1]], SYNTHETIC)


def test_sizes_that_differ_may_do_so_up_to_the_stage_that_resizes():
    small = torch.rand(2, 3, 5, 5)
    images = run([v2.Resize((6, 6)), v2.Identity()], parts(synthetic=small)).images
    assert images.shape == (5, 3, 6, 6)
    ragged = [torch.rand(3, 4, 4), torch.rand(3, 9, 5), torch.rand(3, 5, 5)]
    images = run(v2.Resize((6, 6)), parts(ragged)).images
    assert images.shape == (5, 3, 6, 6)
    with pytest.raises(
        ValueError, match=r"must have one size, got \(3, 8, 8\) and \(3, 5, 5\): add a stage that resizes"
    ):
        Program(v2.Identity(), dtype=None)(parts(synthetic=small), None, KEY)


def test_ragged_batches_stay_ragged():
    ragged = [torch.rand(3, 4, 4), torch.rand(3, 9, 5)]
    images = run(v2.Identity(), [rows_of(ragged)], dtype=None).images
    assert isinstance(images, list) and [image.shape for image in images] == [image.shape for image in ragged]


@pytest.mark.parametrize(
    ("transform", "dtype", "given", "seen"),
    [
        (v2.Identity(), None, torch.uint8, torch.uint8),
        (v2.Identity(), torch.uint8, torch.uint8, torch.uint8),
        (v2.Identity(), torch.float32, torch.uint8, torch.float32),
        (v2.Identity(), torch.bfloat16, torch.uint8, torch.float32),
        (K.RandomHorizontalFlip(), None, torch.uint8, torch.uint8),
        (K.RandomBoxBlur(), None, torch.uint8, torch.float32),
        (MixUp(weight=1, num_classes=2), None, torch.uint8, torch.float32),
        (v2.Identity(), None, torch.float64, torch.float64),
        (v2.Identity(), torch.float32, torch.float16, torch.float32),
        (v2.Identity(), torch.float16, torch.float64, torch.float64),
    ],
)
def test_stages_get_the_widest_dtype(transform, dtype, given, seen):
    images = torch.ones(5, 3, 4, 4).to(given)
    got = []
    spy = lambda images: (got.append(images.dtype), images)[1]  # noqa: E731
    Program([spy, transform], dtype=dtype)([rows_of(images, torch.arange(5))], torch.zeros(5, dtype=torch.int64), KEY)
    assert got == [seen]


def test_each_stage_has_numbers_of_its_own():
    stage = torch.rand_like
    drawn = []
    for stages in ([stage], [stage, stage]):
        drawn.append(run(stages, [rows_of(REAL)], dtype=None).images)
    assert not torch.equal(*drawn)


def test_blending_says_what_it_lacks():
    program = Program(MixUp(alpha=1.0, num_classes=3), dtype=None)
    with pytest.raises(ValueError, match=r"MixUp\(alpha=1.0, num_classes=3\) blends labels, but the batch has none"):
        program(parts(), None, KEY)
    ragged = [torch.rand(3, 4, 4), torch.rand(3, 9, 5)]
    with pytest.raises(ValueError, match=r"needs images of one size, got sizes .* resize before it"):
        program([rows_of(ragged, torch.arange(2))], torch.tensor([0, 1]), KEY)


@pytest.mark.parametrize("transform", [3, [v2.Identity(), None], [[v2.Identity()]]])
def test_what_is_no_transform_is_refused(transform):
    with pytest.raises(TypeError, match="transform must be callable or a list of callables"):
        Program(transform, dtype=None)
