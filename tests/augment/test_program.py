import kornia.augmentation as K
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchaug_gen import MixUp
from torchaug_gen.augment.program import Program
from torchaug_gen.augment.rows import Key, rows_of
from torchaug_gen.augment.targets.moving import Target, TargetOptions

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


def test_lists_stay_lists_unless_a_stage_fixes_the_size():
    ragged, even = [torch.rand(3, 4, 4), torch.rand(3, 9, 5)], [torch.rand(3, 4, 4)] * 2
    for transform in (None, K.RandomHorizontalFlip(), v2.RandomRotation(9.0), v2.ColorJitter(0.1), v2.GaussianBlur(3)):
        for images in (ragged, even):
            result = run(transform, [rows_of(images)]).images
            assert isinstance(result, list) and [i.shape for i in result] == [i.shape for i in images]
    for transform in (
        v2.Resize((6, 6)),
        v2.RandomResizedCrop(6),
        v2.RandomCrop(6, pad_if_needed=True),
        K.PadTo((9, 9)),
    ):
        for images in (ragged, even, even[:1]):
            assert isinstance(run([transform, v2.GaussianBlur(3)], [rows_of(images)]).images, torch.Tensor)
    labels = torch.tensor([0, 1])
    assert run(MixUp(alpha=1.0, num_classes=2), [rows_of(even)], labels).images.shape == (2, 3, 4, 4)


def test_targets_of_ragged_images_stay_with_them():
    images = [torch.rand(3, 4, 6), torch.rand(3, 9, 5), torch.rand(3, 4, 6)]
    boxes = torch.tensor([[1.0, 1.0, 3.0, 2.0]]).expand(3, 1, 4)
    targets = {
        "masks": Target("masks", [image[0] for image in images]),
        "boxes": Target("boxes", boxes),
        "tuple": Target("keypoints", tuple(boxes[..., :2])),
    }
    result, record = Program(v2.RandomHorizontalFlip(1.0), dtype=None)([rows_of(images)], None, KEY, targets=targets)
    for n, image in enumerate(images):
        width = image.shape[2]
        assert torch.equal(result.images[n], image.flip(2)) and torch.equal(
            result.targets["masks"][n], image[0].flip(1)
        )
        assert result.targets["boxes"][n].tolist() == [[width - 3, 1, width - 1, 2]]
        assert result.targets["tuple"][n].tolist() == [[width - 2, 1]]
    assert isinstance(result.targets["tuple"], tuple) and record.kept["boxes"].tolist() == [[True]] * 3


def test_targets_move_once_through_all_fused_stages():
    """Boxes are measured where they end, and masks are read once, also with an opaque stage in between."""
    images = torch.rand(4, 3, 40, 40)
    masks = torch.arange(1600).reshape(1, 40, 40).repeat(4, 1, 1)
    boxes = torch.tensor([[12.0, 12.0, 28.0, 28.0], [0.0, 0.0, 3.0, 3.0]]).repeat(4, 1, 1)
    targets = {"masks": Target("masks", masks), "boxes": Target("boxes", boxes)}
    warps = [v2.RandomRotation((30, 30)), v2.Resize((10, 10)), v2.RandomRotation((-30, -30)), v2.Resize((40, 40))]
    options = TargetOptions(min_area=100.0, mask_fill=-1)
    parted = [*warps[:2], v2.GaussianBlur(3), *warps[2:]]
    whole, apart = (
        Program(t, dtype=None, targets=options)([rows_of(images)], None, KEY, targets=targets) for t in (warps, parted)
    )
    assert len(apart[1].warps) == 2 and apart[1].kept["boxes"].tolist() == [[True, False]] * 4
    # What left the frame in between is gone, and half a coarse pixel along its edges shows the edge.
    seen = apart[0].targets["masks"] >= 0
    assert (whole[0].targets["masks"] != apart[0].targets["masks"])[seen].float().mean() < 0.1
    inner = apart[0].targets["masks"][0, 12:28, 12:28]
    # The two turns cancel: every pixel is there, none as coarse as the small image in between.
    assert (inner == masks[0, 12:28, 12:28]).float().mean() > 0.9
    moved = apart[0].targets["boxes"]
    # A box around the box around the turned box would be larger.
    torch.testing.assert_close(moved[:, 0], boxes[:, 0])
    assert (moved[:, 1] == 0).all()


def test_what_moves_no_pixels_leaves_targets_alone():
    targets = {"masks": Target("masks", "whatever"), "boxes": Target("boxes", [{"boxes": 1}] * 3)}
    for transform in (None, v2.ColorJitter(0.3), [v2.RandomErasing(), v2.GaussianBlur(3)]):
        result, record = Program(transform, dtype=None)([rows_of(REAL)], None, KEY, targets=targets)
        assert all(result.targets[name] is target.value for name, target in targets.items()) and not record.kept


@pytest.mark.parametrize(
    ("role", "value", "words"),
    [
        ("boxes", torch.zeros(2, 1, 4), "boxes must be 3, one for each image, got 2"),
        ("keypoints", [torch.zeros(1, 2), None, torch.zeros(1, 2)], "keypoints must be tensors, got NoneType at 1"),
        ("masks", torch.zeros(3, 8, 8).numpy(), "masks must be tensors, got ndarray at 0"),
        (
            "masks",
            torch.zeros(3, 8, 7),
            r"masks must have the \(h, w\) of their images, got \[8, 7\] for \[8, 8\] at 0",
        ),
        (
            "boxes",
            [{"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 9, 8)}] * 3,
            r"masks must have .* got \[9, 8\]",
        ),
        ("boxes", [{"bbox": [[1, 2, 3, 4]]}] * 3, "'bbox' must be a tensor to move with its image, got list at 0"),
        (
            "boxes",
            [tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(8, 9))] * 3,
            "canvases of Bo",
        ),
        (
            "keypoints",
            tv_tensors.KeyPoints(torch.zeros(3, 1, 2), canvas_size=(9, 8)),
            r"canvases of KeyPoints must have",
        ),
        ("boxes", [tv_tensors.BoundingBoxes(torch.zeros(1, 5), format="XYWHR", canvas_size=(8, 8))] * 3, "be upright"),
        (
            "boxes",
            [{"boxes": torch.zeros(2, 4), "labels": torch.zeros(1)}] * 3,
            "'labels' must have a row for each of 2",
        ),
    ],
)
@pytest.mark.parametrize("transform", [v2.RandomHorizontalFlip(), v2.RandomZoomOut()], ids=["fused", "opaque"])
def test_targets_that_cannot_be_moved_are_named(transform, role, value, words):
    with pytest.raises(ValueError, match=words):
        Program(transform, dtype=None)([rows_of(REAL)], None, KEY, targets={"x": Target(role, value)})
