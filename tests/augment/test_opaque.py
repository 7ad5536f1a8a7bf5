import kornia.augmentation as K
import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchaug_gen import fuse, rng
from torchaug_gen.augment.opaque import OpaqueStage
from torchaug_gen.seeded import Seeded

X = torch.rand(4, 3, 8, 8)
RAGGED = [torch.rand(3, 8, 8), torch.rand(3, 6, 9)]


class Noisy(nn.Module):
    def forward(self, images):
        return nn.functional.dropout(images, 0.5) + torch.rand_like(images)


class OwnFlip(K.RandomHorizontalFlip):
    pass


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("images", [X, RAGGED], ids=["tensor", "ragged"])
def test_the_seed_decides(images):
    stage = OpaqueStage(Noisy())
    first, again, other = (list(stage(images, seed=seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


@pytest.mark.parametrize(
    ("transform", "needs_float"),
    [
        (K.RandomHorizontalFlip(), True),
        (K.AugmentationSequential(K.RandomHorizontalFlip(), data_keys=["input"]), True),
        (K.ImageSequential(K.RandomHorizontalFlip()), True),
        (nn.Sequential(nn.Identity(), nn.Sequential(K.RandomHorizontalFlip())), True),
        (OwnFlip(), True),
        (nn.Sequential(nn.Identity()), False),
        (v2.RandomHorizontalFlip(), False),
        (lambda images: images, False),
    ],
)
def test_kornia_is_known_to_refuse_integers_wherever_it_hides(transform, needs_float):
    assert OpaqueStage(transform).needs_float is needs_float


def test_results_are_plain_and_without_gradient():
    stage = OpaqueStage(lambda images: tv_tensors.Image(images * nn.Parameter(torch.ones(1))))
    result = stage(X.clone().requires_grad_(), seed=0)
    assert type(result) is torch.Tensor and not result.requires_grad


def test_a_list_of_one_result_and_an_empty_batch_pass():
    assert torch.equal(OpaqueStage(lambda images: [images])(X, seed=0), X)
    assert OpaqueStage(lambda images: 1 / 0)(X[:0], seed=0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (lambda images: None, "NoneType"),
        (lambda images: images[:-1], r"\(3, 3, 8, 8\) torch.float32"),
        (lambda images: images[0], r"\(3, 8, 8\)"),
        (lambda images: images.long(), "torch.int64"),
        (lambda images: (images, images), "tuple"),
        (v2.ToPILImage(), None),
    ],
)
def test_garbage_is_named(transform, got):
    if got is None:
        with pytest.raises(ValueError):
            OpaqueStage(transform)(X, seed=0)
    else:
        with pytest.raises(TypeError, match=rf"must return images \(4, C, H, W\), uint8 or floating, got .*{got}"):
            OpaqueStage(transform)(X, seed=0)


@pytest.mark.parametrize("transform", [3, "flip", [nn.Identity()]])
def test_what_cannot_be_called_is_refused(transform):
    with pytest.raises(TypeError, match="transform must be callable or a list of callables, got"):
        OpaqueStage(transform)


@pytest.mark.parametrize(
    "make",
    [
        lambda: K.RandomMixUpV2(p=1.0),
        lambda: nn.Sequential(K.RandomHorizontalFlip(), K.RandomCutMixV2(p=1.0)),
        lambda: v2.MixUp(num_classes=10),
        lambda: v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([v2.CutMix(num_classes=10)])]),
    ],
)
def test_transforms_that_blend_images_but_not_labels_are_refused(make):
    with pytest.raises(ValueError, match=r"blends images, but would leave their labels as they are: use torchaug_gen"):
        OpaqueStage(make())


# Targets


H, W = 24, 30
BYTES = torch.randint(256, (5, 3, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
BOXES = torch.tensor([[2.0, 3.0, 12.0, 15.0], [10.0, 5.0, 26.0, 20.0], [0.0, 0.0, 4.0, 4.0]]).repeat(5, 1, 1)
POINTS = torch.tensor([[3.0, 4.0], [20.0, 11.0]]).repeat(5, 1, 1)
MASKS = BYTES[:, 0].long()


class OwnPad(v2.Transform):
    """Moves everything to the right by a number of pixels of the sample's own."""

    def make_params(self, flat_inputs):
        return {"left": int(torch.randint(1, 7, ()))}

    def transform(self, inpt, params):
        return v2.functional.pad(inpt, [params["left"], 0, 0, 0])


class Vertical(K.RandomVerticalFlip):
    pass


def detections(kind="tv"):
    items = []
    for boxes, mask in zip(BOXES, MASKS, strict=True):
        wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(H, W))
        masks = torch.stack([mask % 7 == n for n in range(3)])
        ids = torch.tensor([7, 8, 9])
        items.append({"boxes": wrapped if kind == "tv" else boxes, "labels": ids, "masks": masks, "names": ["a"] * 3})
    return items


def test_torchvision_moves_targets_as_it_does_by_itself():
    transform = fuse(v2.ElasticTransform(30.0, 4.0), dtype=None)
    images, items, masks, points = transform(
        BYTES, detections(), masks=MASKS, keypoints=POINTS, seed=4, epoch=2, positions=range(10, 15)
    )
    for n in range(5):
        sample = (tv_tensors.Image(BYTES[n]), tv_tensors.Mask(MASKS[n]), detections()[n]["boxes"])
        with Seeded(rng.derive_seed(4, "transform.0.sample", 2, 10 + n)):
            image, mask, boxes = v2.ElasticTransform(30.0, 4.0)(*sample)
        assert torch.equal(images[n], torch.Tensor(image).byte()) and torch.equal(masks[n], torch.Tensor(mask).long())
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        torch.testing.assert_close(torch.Tensor(items[n]["boxes"]), torch.Tensor(boxes)[kept])
        assert isinstance(items[n]["boxes"], tv_tensors.BoundingBoxes) and items[n]["boxes"].canvas_size == (H, W)
        assert items[n]["labels"].tolist() == torch.tensor([7, 8, 9])[kept].tolist()
    assert type(masks) is torch.Tensor and masks.dtype is torch.int64 and points.shape == POINTS.shape


@pytest.mark.usefixtures("untouched_rng")
def test_each_sample_has_numbers_and_a_size_of_its_own():
    images = list(BYTES)
    moved, masks, boxes, points = fuse(OwnPad(), dtype=None)(
        images, masks=list(MASKS), boxes=BOXES, keypoints=POINTS.int(), seed=1
    )
    shifts = [image.shape[2] - W for image in moved]
    assert len(set(shifts)) > 2
    for n, left in enumerate(shifts):
        assert torch.equal(moved[n][..., left:], BYTES[n]) and torch.equal(masks[n][:, left:], MASKS[n])
        assert torch.equal(boxes[n], BOXES[n] + torch.tensor([left, 0, left, 0]))
        assert points.dtype is torch.int32 and torch.equal(points[n], (POINTS[n] + torch.tensor([left, 0])).int())
    order = [3, 0, 4]
    again = fuse(OwnPad(), dtype=None)([images[n] for n in order], boxes=BOXES[order], seed=1, positions=order)
    assert torch.equal(again[1], boxes[order]), "numbers hang on the batch"


@pytest.mark.parametrize(
    "opaque", [OwnPad, lambda: Vertical(p=0.5), lambda: v2.Resize((31, 37), v2.InterpolationMode.BICUBIC)]
)
def test_targets_stay_together_between_fused_stages(opaque):
    """A mask that is a box keeps its outline through fused and opaque stages."""
    blank = torch.zeros(5, 3, H, W)
    blank[:, :, 5:20, 10:26] = 1
    program = [v2.RandomHorizontalFlip(), opaque(), v2.RandomCrop((20, 20)), v2.Resize((40, 40))]
    images, masks, boxes = fuse(program)(blank, masks=blank[:, 0], boxes=BOXES[:, 1:2], seed=2)
    assert images.shape == (5, 3, 40, 40) and masks.shape == (5, 40, 40) and boxes.shape == (5, 1, 4)
    for mask, image, (box,) in zip(masks, images, boxes, strict=True):
        assert ((image[0] > 0.5) != (mask > 0.5)).float().mean() < 0.1
        rows, columns = (mask > 0.5).nonzero().unbind(1)
        edges = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert (edges - box).abs().max() <= 2


@pytest.mark.parametrize(
    "module", [lambda: Vertical(p=0.5), lambda: K.RandomAffine(30.0, (0.1, 0.1), resample="bicubic")]
)
@pytest.mark.parametrize("images", [BYTES, [BYTES[0], BYTES[1, :, :20], *BYTES[2:]]], ids=["tensor", "ragged"])
def test_kornia_moves_targets_by_its_own_parameters(module, images):
    transform = fuse(module(), mask_fill=-1)
    masks = [image[0].long() for image in images]
    items = [{"keypoints": POINTS[0]} for _ in images]
    moved, items, shown = transform(images, items, masks=masks)
    alone = transform(images)
    assert all(map(torch.equal, moved, alone)), "targets change the images"
    for n, image in enumerate(images):
        seen = shown[n] >= 0
        assert seen.float().mean() > 0.4 and shown[n].shape == image.shape[1:]
        # A pixel of the mask is one of the image, and the same one for a point.
        for before, after in zip(POINTS[0], items[n]["keypoints"], strict=True):
            column, row = after.round().long().tolist()
            if 0 <= column < image.shape[2] and 0 <= row < image.shape[1] and shown[n][row, column] >= 0:
                x, y = before.long().tolist()
                near = image[0, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].long()
                assert (near == shown[n][row, column]).any()


def test_flips_of_kornia_are_exact():
    _, masks, boxes, points = fuse(Vertical(p=1.0), dtype=None)(BYTES, masks=MASKS, boxes=BOXES, keypoints=POINTS)
    assert torch.equal(masks, MASKS.flip(1))
    torch.testing.assert_close(
        boxes, torch.stack([BOXES[..., 0], H - BOXES[..., 3], BOXES[..., 2], H - BOXES[..., 1]], -1)
    )
    torch.testing.assert_close(points, torch.stack((POINTS[..., 0], H - 1 - POINTS[..., 1]), -1))


def test_kornia_elastic_moves_masks_and_nothing_else():
    elastic = K.RandomElasticTransform(alpha=(25.0, 25.0), p=1.0)
    ramp = torch.linspace(0, 1, W).expand(5, 3, H, W)
    images, masks = fuse(elastic)(ramp, masks=ramp[:, :1])
    inner = (..., slice(4, -4), slice(4, -4))
    assert (images[:, :1] - masks)[inner].abs().max() < 1 / W < 2 / W < (images - ramp)[inner].abs().max()
    for role, value in (("boxes", BOXES), ("keypoints", POINTS)):
        with pytest.raises(ValueError, match=f"RandomElasticTransform may move pixels, but would leave {role} where"):
            fuse(elastic)(BYTES, masks=MASKS, **{role: value})
    with pytest.raises(ValueError, match="RandomFisheye may move pixels, but would leave masks where they are"):
        limits = torch.tensor([-0.3, 0.3])
        fuse(K.RandomFisheye(limits, limits, torch.tensor([0.9, 1.0])))(BYTES, masks=MASKS)


@pytest.mark.parametrize(
    "module",
    [
        K.RandomGaussianBlur((3, 3), (0.1, 1.0)),
        K.RandomClahe(),
        K.RandomMotionBlur(3, 1.0, 1.0),
        K.ImageSequential(K.RandomBoxBlur(), K.RandomGaussianBlur((3, 3), (0.1, 1.0)), random_apply=1),
        v2.GaussianBlur(3),
        v2.RandomOrder([v2.GaussianBlur(3), v2.JPEG((50, 60))]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_moves_no_pixels_leaves_targets_alone(module):
    items = detections()
    images, moved, masks = fuse(module)(BYTES, items, masks=MASKS)
    assert moved is items and masks is MASKS and images.shape == BYTES.shape


@pytest.mark.parametrize("kind", ["tv", "plain"])
def test_removed_boxes_take_all_that_belongs_to_them(kind):
    program = fuse([v2.CenterCrop(14), v2.SanitizeBoundingBoxes(min_size=5)])
    _, items = program(BYTES, detections(kind))
    for item in items:
        assert item["labels"].tolist() == [8] and item["names"] == ["a"] and item["masks"].shape == (1, 14, 14)
        assert len(item["boxes"]) == 1
    assert program(BYTES).shape == (5, 3, 14, 14), "there is nothing to sanitize"
    assert program(BYTES, masks=MASKS)[1].shape == (5, 14, 14)


def test_boxes_are_not_removed_from_labels_that_nobody_knows():
    sanitize = v2.SanitizeBoundingBoxes(min_size=5, labels_getter=None)
    assert [len(rows) for rows in fuse(sanitize)(BYTES, boxes=list(BOXES))[1]] == [2] * 5
    with pytest.raises(
        ValueError, match=r"has removed some of the boxes, which leaves no tensor \(5, 3, 4\): pass a list"
    ):
        fuse(sanitize)(BYTES, boxes=BOXES)
    with pytest.raises(
        ValueError, match=r"RandomApply has removed 1 of 3 boxes, but no rows of 'labels' and .*'names'"
    ):
        fuse(v2.RandomApply([sanitize], p=1.0))(BYTES, detections())
    with pytest.raises(ValueError, match="ConvertBoundingBoxFormat has made CXCYWH of plain boxes"):
        fuse(v2.ConvertBoundingBoxFormat("CXCYWH"))(BYTES, boxes=BOXES)


def test_results_of_different_sizes_make_no_batch():
    with pytest.raises(ValueError, match=r"OwnPad leaves images of different sizes, .* pass a list of images"):
        fuse(OwnPad())(BYTES, boxes=BOXES)
    images, boxes = fuse([OwnPad(), v2.Resize((10, 12))])(BYTES, boxes=BOXES)
    assert images.shape == (5, 3, 10, 12) and boxes.shape == BOXES.shape
    empty = fuse([OwnPad(), v2.Resize((10, 12))])(BYTES[:0], boxes=BOXES[:0], masks=MASKS[:0])
    assert [part.shape for part in empty] == [(0, 3, 10, 12), (0, 10, 12), (0, 3, 4)]


def test_visibility_goes_along():
    points = torch.cat((POINTS, torch.tensor([2.0, 0.0]).expand(5, 2)[..., None]), -1)
    images, moved = fuse(OwnPad())(list(BYTES), keypoints=points)
    for image, (first, second) in zip(images, moved, strict=True):
        assert first.tolist() == [3 + image.shape[2] - W, 4, 2] and second.tolist() == [0, 0, 0]
