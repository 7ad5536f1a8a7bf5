"""fuse: one function of (images, seed, epoch, positions), whatever the library, the dtype, the size of the batch."""

import inspect
import warnings

import kornia.augmentation as K
import numpy as np
import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchaug_gen import CutMix, FusedTransform, MixUp, fuse

BYTES = torch.randint(256, (6, 3, 21, 27), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FLOATS = BYTES / 255
LABELS = torch.arange(6) % 3


def recipe():
    return [
        v2.RandomResizedCrop((15, 17), scale=(0.4, 1.0)),
        K.RandomHorizontalFlip(),
        K.RandomRotation(15.0, p=0.5),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
        K.RandomGrayscale(p=0.3),
        K.RandomGaussianNoise(std=0.1, p=0.5),
        v2.Normalize([0.5] * 3, [0.25] * 3),
        v2.RandomErasing(0.5),
    ]


PROGRAMS = {
    "recipe": recipe,
    "policy": lambda: [v2.RandAugment(), K.RandomPerspective(p=0.8)],
    "mixture": lambda: [K.RandomVerticalFlip(), v2.AugMix(), K.RandomAffine(20.0, p=0.5)],
    "statistics": lambda: [v2.RandomEqualize(0.5), K.RandomAutoContrast(p=0.5), v2.RandomAdjustSharpness(2.0, 0.5)],
}
# What is keyed by the batch, and not by the sample.
BY_BATCH = {
    "opaque": lambda: [K.RandomHorizontalFlip(), K.RandomBoxBlur(p=0.5), lambda x: x * torch.rand(len(x), 1, 1, 1)],
    "mix": lambda: [*recipe(), CutMix(alpha=1.0, num_classes=3), v2.GaussianBlur(3), MixUp(alpha=1.0, num_classes=3)],
}


def images_of(result):
    return result[0] if isinstance(result, tuple) else result


def call(transform, images=BYTES, **options):
    labels = LABELS[: len(images)] if "Mix" in str(transform.plan()) else None
    result = images_of(transform(images, labels=labels, **options))
    return torch.stack(result) if isinstance(result, list) else result


# Randomness


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("name", [*PROGRAMS, *BY_BATCH])
def test_results_are_a_function_of_seed_epoch_and_positions(name):
    make = (PROGRAMS | BY_BATCH)[name]
    key = {"seed": 3, "epoch": 2, "positions": [5, 6, 7, 100, 2**40, 0]}
    transform = fuse(make())
    first = call(transform, **key)
    call(transform, seed=9)
    assert torch.equal(first, call(transform, **key)), "the second call gives other bits"
    assert torch.equal(first, call(fuse(make()), **key)), "another transform gives other bits"
    for change in ({"seed": 4}, {"epoch": 3}, {"positions": [4, 3, 2, 1, 0, 5]}):
        assert not torch.equal(first, call(transform, **(key | change))), change


@pytest.mark.parametrize("images", [BYTES, FLOATS, list(BYTES)], ids=["uint8", "float", "list"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_neither_the_size_of_the_batch_nor_its_order_matters(name, images):
    transform = fuse(PROGRAMS[name]())
    positions = torch.tensor([11, 3, 8, 0, 5, 2**33])
    whole = call(transform, images, seed=1, positions=positions)
    alone = [call(transform, images[n : n + 1], seed=1, positions=positions[n : n + 1]) for n in range(6)]
    assert torch.equal(whole, torch.cat(alone))
    order = [4, 0, 5, 1, 3, 2]
    shuffled = images[order] if isinstance(images, torch.Tensor) else [images[n] for n in order]
    assert torch.equal(whole[order], call(transform, shuffled, seed=1, positions=positions[order]))


def test_positions_count_from_zero_by_default_and_tell_samples_apart():
    transform = fuse(recipe())
    same = BYTES[:1].expand(6, -1, -1, -1)
    result = transform(same)
    assert torch.equal(result, transform(same, positions=range(6)))
    assert len({tuple(image.flatten().tolist()) for image in result}) == 6


def test_each_of_two_equal_operations_draws_for_itself():
    drawn = fuse([K.RandomRotation(30.0, p=1.0), K.RandomRotation(30.0, p=1.0)]).parameters_for(BYTES)
    (_, first), (_, second) = drawn
    assert (first["angle"] != second["angle"]).all()


def test_the_operations_before_an_opaque_stage_draw_what_they_draw_alone():
    alone, both = fuse([K.RandomRotation(30.0)]), fuse([K.RandomRotation(30.0), lambda x: x])
    assert torch.equal(alone(FLOATS, seed=1), both(FLOATS, seed=1))


# Parameters


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("name", [*PROGRAMS, *BY_BATCH])
def test_parameters_replay_bit_for_bit(name):
    transform = fuse((PROGRAMS | BY_BATCH)[name]())
    key = {"seed": 3, "epoch": 2, "positions": [5, 6, 7, 100, 9, 0]}
    parameters = transform.parameters_for(BYTES, **key)
    assert torch.equal(call(transform, **key), call(transform, parameters=parameters))


def test_edited_parameters_take_effect():
    transform = fuse([K.RandomRotation(30.0, p=1.0), K.RandomHorizontalFlip(p=0.0), v2.ColorJitter(0.5)])
    parameters = transform.parameters_for(FLOATS)
    names = [name for name, _ in parameters]
    assert names == ["RandomRotation", "RandomHorizontalFlip", "ColorJitter"]
    (_, rotation), (_, flip), (_, jitter) = parameters
    assert rotation["angle"].shape == (6,) and rotation["angle"].abs().max() <= 30 and flip["active"].eq(0).all()
    rotation["angle"][:] = 0
    jitter["active"][:] = 0
    assert torch.equal(transform(FLOATS, parameters=parameters), FLOATS)
    flip["active"][1] = 1
    changed = transform(FLOATS, parameters=parameters)
    assert torch.equal(changed[1], FLOATS[1].flip(-1)) and torch.equal(changed[2:], FLOATS[2:])
    rotation["angle"][2] = 180
    torch.testing.assert_close(transform(FLOATS, parameters=parameters)[2], FLOATS[2].flip(-1, -2), rtol=0, atol=1e-5)


def test_parameters_must_fit():
    transform = fuse([K.RandomRotation(30.0)])
    with pytest.raises(ValueError, match="positions must be 2, one for each image, got 6"):
        transform(BYTES[:2], parameters=transform.parameters_for(BYTES))
    with pytest.raises(TypeError, match="parameters must be what parameters_for returned, got dict"):
        transform(BYTES, parameters={})
    with pytest.raises(ValueError, match=r"parameters must have the shape"):
        fuse([K.RandomHorizontalFlip()])(BYTES, parameters=transform.parameters_for(BYTES))


# Geometry


def dots(n, size, places):
    """Return images that are dark but for a bright dot of 3×3 pixels."""
    images = torch.zeros(n, 1, *size)
    for image, (x, y) in zip(images, places, strict=True):
        image[0, y - 1 : y + 2, x - 1 : x + 2] = 1
    return images


def centre_of_light(images):
    y, x = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in images.shape[2:]), indexing="ij")
    light = images[:, 0].double()
    total = light.sum((1, 2))
    return torch.stack(((light * x).sum((1, 2)) / total, (light * y).sum((1, 2)) / total), 1)


GEOMETRY = {
    "kornia": lambda: [K.RandomRotation(20.0, p=1.0), K.RandomAffine(10.0, (0.05, 0.05), (0.9, 1.2), p=1.0)],
    "torchvision": lambda: [
        v2.RandomAffine(20, (0.05, 0.05), (0.9, 1.1), 5, interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(),
        v2.Resize((50, 70)),
    ],
    "two passes": lambda: [
        K.RandomAffine(15.0, p=1.0),
        v2.ColorJitter(contrast=(0.9, 0.9)),
        K.RandomShear((5.0, 5.0), p=1.0),
    ],
    "crops": lambda: [
        K.RandomVerticalFlip(),
        v2.RandomResizedCrop((48, 56), (0.85, 1.0)),
        v2.Pad(3),
        v2.CenterCrop(50),
    ],
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_the_matrix_says_where_pixels_go(name, backend):
    places = torch.tensor([[25, 20], [30, 30], [40, 25], [32, 38]])
    images = dots(4, (60, 64), places.tolist())
    transform = fuse(GEOMETRY[name](), backend=backend)
    result = transform(images, seed=5)
    points = torch.cat((places.double(), torch.ones(4, 1, dtype=torch.float64)), 1)
    moved = (transform.matrix @ points[..., None])[..., 0]
    moved = moved[:, :2] / moved[:, 2:]
    base = result - result.amin((1, 2, 3), keepdim=True)
    assert (centre_of_light(base.where(base > 0.08, 0)) - moved).abs().max() < 0.25
    again = transform(images, keypoints=places.float()[:, None], seed=5)[1][:, 0]
    assert (again.double() - moved).abs().max() < 1e-3
    torch.testing.assert_close(transform.inverse @ transform.matrix, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    parameters = transform.parameters_for(images, seed=5)
    torch.testing.assert_close(parameters.matrix, transform.matrix, rtol=0, atol=0)


def test_a_matrix_that_is_not_known_is_not_given():
    transform = fuse([K.RandomRotation(20.0), lambda images: images.flip(-1)])
    with pytest.raises(ValueError, match="that of the last call, and there was none"):
        _ = transform.matrix
    transform(BYTES)
    with pytest.raises(ValueError, match="<lambda> may have moved pixels"):
        _ = transform.matrix
    parameters = transform.parameters_for(BYTES)
    assert torch.equal(transform(BYTES, parameters=parameters), transform(BYTES))
    with pytest.raises(ValueError, match="<lambda> may have moved pixels"):
        _ = parameters.matrix


# Images


def test_a_single_image_is_a_batch_of_one():
    transform = fuse(recipe())
    assert torch.equal(transform(BYTES[0], seed=1), transform(BYTES[:1], seed=1)[0])
    with pytest.raises(ValueError, match=r"targets and labels need a batch of images \(N, C, H, W\)"):
        transform(BYTES[0], masks=torch.zeros(21, 27))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_images_of_different_sizes_come_out_in_one(backend):
    images = [BYTES[0], BYTES[1, :, :9, :13], BYTES[2, :, 3:, 2:], BYTES[3, :, :1, :1]]
    transform = fuse([K.RandomHorizontalFlip(), v2.Resize((8, 9)), v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], backend=backend)
    result = transform(images)
    assert result.shape == (4, 3, 8, 9)
    for n, image in enumerate(images):
        assert torch.equal(transform(image[None].contiguous(), positions=[n])[0], result[n])


@pytest.mark.parametrize(
    "ragged", [K.LongestMaxSize(16), K.SmallestMaxSize(9), v2.Resize(9), v2.Pad(2)], ids=lambda m: type(m).__name__
)
def test_sizes_that_come_out_different_are_refused_by_name(ragged):
    images = [BYTES[0], BYTES[1, :, :9, :13]]
    with pytest.raises(ValueError, match=f"{type(ragged).__name__} leaves images of different sizes, .* which make no"):
        fuse([K.RandomHorizontalFlip(), ragged, v2.ColorJitter(0.1)])(images)
    assert fuse([ragged, K.CenterCrop((5, 5))])(images).shape == (2, 3, 5, 5)
    assert fuse(ragged)(BYTES).shape[:2] == (6, 3)


DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
ENDS = {
    "nothing": lambda: [],
    "fused": lambda: [K.RandomHorizontalFlip(), v2.ColorJitter(0.2)],
    "opaque": lambda: [K.RandomHorizontalFlip(), v2.GaussianBlur(3)],
    "mix": lambda: [K.RandomHorizontalFlip(), MixUp(alpha=1.0, num_classes=3)],
    "as bytes": lambda: [v2.ToDtype(torch.uint8, scale=True), v2.JPEG((90, 90)), v2.RandomVerticalFlip()],
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_come_in_any_dtype_and_go_as_asked(name, memory_format):
    exact = None
    for dtype in (torch.float64, *DTYPES, None):
        transform = fuse(ENDS[name](), dtype=dtype, memory_format=memory_format)
        for given in DTYPES:
            images = BYTES if given is torch.uint8 else (BYTES.double() / 255).to(given)
            result = call(transform, images, seed=1)
            exact = result if exact is None else exact
            if dtype is not None or given.is_floating_point:
                assert result.dtype is (dtype or given)
            assert result.is_contiguous(memory_format=memory_format)
            values = result.double() / (255 if result.dtype is torch.uint8 else 1)
            coarse = {given, result.dtype} & {torch.float16, torch.bfloat16, torch.uint8}
            # JPEG makes much of a level more or less.
            tolerance = 0.05 if name == "as bytes" else 0.005 if coarse else 1e-5
            assert (values - exact).abs().mean() < tolerance, (dtype, given)


def test_half_precision_moves_no_pixels():
    exact = fuse([K.RandomRotation(20.0, p=1.0)], dtype=torch.float32)(BYTES)
    rounded = fuse([K.RandomRotation(20.0, p=1.0)], dtype=torch.bfloat16)(BYTES)
    assert torch.equal(exact.to(torch.bfloat16), rounded)


def test_strides_of_the_input_do_not_matter():
    transform = fuse(recipe())
    expected = transform(FLOATS)
    wide = torch.zeros(6, 3, 21, 60)
    wide[..., 1:55:2] = FLOATS
    for images in (FLOATS.to(memory_format=torch.channels_last), wide[..., 1:55:2], FLOATS.flip(0).flip(0)):
        before = images.clone()
        assert torch.equal(transform(images), expected)
        assert torch.equal(images, before), "the input was written to"


def test_results_of_earlier_calls_stay():
    transform = fuse(recipe())
    kept = [transform(BYTES, epoch=epoch) for epoch in range(4)]
    assert all(torch.equal(image, transform(BYTES, epoch=epoch)) for epoch, image in enumerate(kept))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_any_number_of_channels(channels, backend):
    images = torch.rand(3, channels, 9, 12)
    transform = fuse(
        [K.RandomAffine(20.0, p=1.0), v2.ColorJitter(0.4, 0.4), v2.RandomErasing(1.0), K.RandomInvert(p=0.5)],
        backend=backend,
    )
    together = transform(images)
    assert together.shape == images.shape
    plain = fuse([K.RandomAffine(20.0, p=1.0), K.RandomVerticalFlip()], backend=backend)
    apart = torch.cat([plain(images[:, c : c + 1]) for c in range(channels)], 1)
    torch.testing.assert_close(plain(images), apart, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(
    "module",
    [
        v2.ColorJitter(hue=0.1),
        K.ColorJitter(saturation=0.3),
        K.RandomHue((0.1, 0.1), p=1.0),
        K.RandomPlanckianJitter(p=1.0),
        K.RandomRGBShift(p=1.0),
        v2.RandomGrayscale(1.0),
        v2.Normalize([0.5] * 3, [0.5] * 3),
        v2.RandomErasing(1.0, value=[0.1, 0.2, 0.3]),
        v2.RandomRotation(20, fill=[1, 2, 3]),
    ],
    ids=lambda m: type(m).__name__,
)
def test_colours_on_other_channels_are_refused_by_name(module, channels):
    with pytest.raises(ValueError, match=rf"{type(module).__name__} (works on|has) .*(got|images have) {channels}"):
        fuse([K.RandomHorizontalFlip(), module])(torch.rand(2, channels, 8, 8))


@pytest.mark.parametrize("name", [*PROGRAMS, *BY_BATCH])
def test_an_empty_batch_stays_empty(name):
    transform = fuse((PROGRAMS | BY_BATCH)[name]())
    full = call(transform)
    empty = call(transform, BYTES[:0])
    assert empty.shape == (0, *full.shape[1:]) and empty.dtype is full.dtype


def test_targets_of_an_empty_batch():
    result = fuse([v2.RandomResizedCrop(5)])(
        BYTES[:0], labels=LABELS[:0], masks=torch.zeros(0, 21, 27), boxes=torch.zeros(0, 2, 4), keypoints=[]
    )
    assert [len(part) for part in result] == [0] * 5
    assert result[2].shape == (0, 5, 5)


def test_kept_says_which_boxes_remain():
    transform = fuse([v2.CenterCrop(11)], min_visibility=0.4)
    with pytest.raises(ValueError, match="kept is that of the last call, and there was none"):
        _ = transform.kept
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [9.0, 6.0, 17.0, 14.0], [7.0, 5.0, 12.0, 10.0]]).repeat(6, 1, 1)
    _, listed, whole = transform(
        BYTES, [tv_tensors.BoundingBoxes(b, format="XYXY", canvas_size=(21, 27)) for b in boxes], boxes=boxes
    )
    assert transform.kept["boxes"].tolist() == [[False, True, True]] * 6
    assert [rows.tolist() for rows in transform.kept[0]] == [[False, True, True]] * 6
    assert all(torch.equal(torch.Tensor(rows), whole[n]) for n, rows in enumerate(listed))
    assert ((whole != 0).any(-1) == transform.kept["boxes"]).all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3)])
@pytest.mark.parametrize("name", [*PROGRAMS, "warps"])
def test_tiny_images(name, size, backend):
    warps = [
        K.RandomPerspective(p=1.0),
        K.RandomAffine(30.0, p=1.0),
        v2.RandomPerspective(p=1.0),
        K.RandomRotation(9.0),
    ]
    transform = fuse(PROGRAMS[name]() if name in PROGRAMS else warps, backend=backend)
    result = transform(FLOATS[:, :, : size[0], : size[1]])
    assert result.shape == (6, 3, *((15, 17) if name == "recipe" else size)) and result.isfinite().all()


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_images_without_pixels_are_refused(size, backend):
    for module in (v2.RandomResizedCrop(5), v2.Pad(3), v2.ColorJitter(0.4)):
        with pytest.raises(ValueError, match=f"{type(module).__name__} needs images of at least 1×1 pixels, got"):
            fuse(module, backend=backend)(torch.zeros(2, 3, *size))


# Targets


def targets(kind):
    """Return masks, boxes and keypoints of the six images."""
    masks = (BYTES[:, 0] > 100).long()
    boxes = torch.tensor([[2.0, 3.0, 12.0, 15.0], [10.0, 5.0, 26.0, 20.0]]).repeat(6, 1, 1)
    points = torch.tensor([[3.0, 4.0], [20.0, 11.0], [13.0, 10.0]]).repeat(6, 1, 1)
    if kind == "tv":
        return (
            tv_tensors.Mask(masks),
            [tv_tensors.BoundingBoxes(b, format="XYXY", canvas_size=(21, 27)) for b in boxes],
            [tv_tensors.KeyPoints(p, canvas_size=(21, 27)) for p in points],
        )
    return masks, boxes, points


GATED = [K.RandomHorizontalFlip(), K.RandomRotation(15.0), v2.RandomCrop((17, 19)), v2.ColorJitter(0.4)]


def test_targets_by_keyword_and_as_tv_tensors_agree():
    transform = fuse(GATED)
    masks, boxes, points = targets("plain")
    images, labels, *named = transform(BYTES, labels=LABELS, masks=masks, boxes=boxes, keypoints=points, seed=2)
    assert torch.equal(images, transform(BYTES, seed=2)) and torch.equal(labels, LABELS)
    assert named[0].dtype is torch.int64 and named[0].shape == (6, 17, 19)
    positional = transform(BYTES, *targets("tv"), seed=2)
    assert isinstance(positional[1], tv_tensors.Mask) and torch.equal(positional[1], named[0])
    for n in range(6):
        assert isinstance(positional[2][n], tv_tensors.BoundingBoxes) and positional[2][n].canvas_size == (17, 19)
        gone = named[1][n].abs().sum(1) == 0
        torch.testing.assert_close(torch.Tensor(positional[2][n]), named[1][n][~gone], rtol=0, atol=1e-4)
        # torchvision's keypoints are in the corner convention, half a pixel from the centre one.
        assert isinstance(positional[3][n], tv_tensors.KeyPoints)


def test_detection_dicts_lose_labels_with_their_boxes():
    transform = fuse([v2.CenterCrop(11)], min_visibility=0.4)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [9.0, 6.0, 17.0, 14.0], [7.0, 5.0, 12.0, 10.0]])
    items = [
        {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(21, 27)),
            "labels": torch.tensor([7, 8, 9]),
        }
        for _ in range(6)
    ]
    _, moved = transform(BYTES, items)
    assert [item["labels"].tolist() for item in moved] == [[8, 9]] * 6
    assert all(len(item["boxes"]) == 2 for item in moved)
    assert [len(item["labels"]) for item in items] == [3] * 6, "the input was written to"


def test_masks_follow_the_pixels_through_all_stages():
    """A mask that is the image itself, moved by nearest pixels, shows what the image shows."""
    program = [
        K.RandomVerticalFlip(),
        v2.RandomAffine(30, (0.1, 0.1), (0.8, 1.2)),
        v2.RandomInvert(0.0),
        K.RandomCrop((15, 19), padding=2),
        v2.RandomResizedCrop((12, 13), (0.5, 1.0), interpolation=v2.InterpolationMode.NEAREST_EXACT),
    ]
    images, masks = fuse(program, dtype=torch.uint8, interpolation="nearest")(BYTES, masks=BYTES, seed=4)
    assert (images != masks).float().mean() < 0.01


def test_masks_have_the_size_of_their_images():
    with pytest.raises(
        ValueError, match=r"masks must have the \(h, w\) of their images, got \[5, 5\] for \[21, 27\] at 0"
    ):
        fuse(GATED)(BYTES, masks=torch.zeros(6, 5, 5))
    with pytest.raises(ValueError, match=r"got \[5, 6\] for \[21, 27\] at 1"):
        fuse(GATED)(BYTES, masks=[torch.zeros(21, 27), *(torch.zeros(5, 6) for _ in range(5))])


def test_ragged_masks_and_boxes_go_with_their_images():
    images = [BYTES[0], BYTES[1, :, :9, :13]]
    masks = [image[0] for image in images]
    boxes = [torch.tensor([[0.0, 0.0, 27.0, 21.0]]), torch.tensor([[0.0, 0.0, 13.0, 9.0]])]
    transform = fuse([K.RandomHorizontalFlip(p=1.0), v2.Resize((10, 12))])
    result, moved, around = transform(images, masks=masks, boxes=boxes)
    assert result.shape == (2, 3, 10, 12) and [mask.shape for mask in moved] == [(10, 12)] * 2
    for box in around:
        torch.testing.assert_close(box, torch.tensor([[0.0, 0.0, 12.0, 10.0]]))


@pytest.mark.parametrize("role", ["masks", "boxes", "keypoints"])
def test_stages_that_cannot_move_targets_are_refused_by_name(role):
    given = dict(zip(("masks", "boxes", "keypoints"), targets("plain"), strict=True))
    for module, name in ((torch.nn.ReflectionPad2d(1), "ReflectionPad2d"), (v2.AugMix(), "AugMix")):
        with pytest.raises(ValueError, match=f"{name} .* leave {role} where they are"):
            fuse([K.RandomHorizontalFlip(), module])(BYTES, **{role: given[role]})
    blurred = fuse([K.RandomHorizontalFlip(), v2.GaussianBlur(3)])(BYTES, **{role: given[role]})
    assert len(blurred) == 2


# Gradients


def test_gradients_flow_where_images_need_them():
    images = FLOATS.clone().requires_grad_()
    transform = fuse(recipe())
    result = transform(images, seed=1)
    result.square().sum().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
    torch.testing.assert_close(result.detach(), transform(FLOATS, seed=1), rtol=0, atol=2e-4)
    with torch.no_grad():
        assert not transform(images, seed=1).requires_grad
    with pytest.raises(ValueError, match='backend="cpu" has no gradients'):
        fuse(recipe(), backend="cpu")(images)


def test_gradients_are_those_of_differences():
    continuous = [
        K.RandomAffine(20.0, (0.1, 0.1), p=1.0),
        K.RandomHorizontalFlip(),
        v2.ColorJitter((0.8, 0.95), (0.7, 0.9), (0.7, 0.9)),
        K.RandomGamma((0.9, 1.2), (0.9, 1.0), p=1.0),
        v2.Resize((4, 5)),
        v2.Normalize([0.4] * 3, [0.3] * 3),
    ]
    transform = fuse(continuous, backend="reference", dtype=torch.float64)
    images = 0.3 + 0.4 * torch.rand(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(lambda x: transform(x, seed=3), images.requires_grad_(), eps=1e-6, atol=1e-5)


# Plans


def test_the_plan_names_stages_and_reasons():
    transform = fuse(
        [*recipe(), v2.JPEG((50, 90)), MixUp(alpha=0.4, num_classes=3), len, v2.RandAugment(), v2.AugMix()]
    )
    plan = transform.plan()
    kinds = [stage.kind for stage in plan.stages]
    assert kinds == [
        "warp",
        "colour",
        "cover",
        "colour",
        "cover",
        "opaque",
        "mix",
        "opaque",
        "choice",
        "choice",
        "mixture",
    ]
    text = str(plan)
    for expected in (
        "RandomResizedCrop, RandomHorizontalFlip, RandomRotation: one homography, bilinear, antialiased",
        "ColorJitter, RandomGrayscale",
        "JPEG: compresses blocks of pixels",
        "MixUp(alpha=0.4",
        "len: len is neither Kornia's nor torchvision's, so what it does is not known",
        "RandAugment.ShearX",
    ):
        assert expected in text
    assert text in repr(transform) and repr(plan) == text
    assert str(fuse(None).plan()).strip() == "nothing to do"
    assert all(stage.reason for stage in plan.stages if stage.kind == "opaque")


def test_a_fused_transform_is_part_of_a_larger_one():
    inner = fuse([K.RandomHorizontalFlip(), K.RandomRotation(20.0, p=1.0)])
    outer = fuse([inner, v2.ColorJitter(0.4)])
    assert isinstance(inner, FusedTransform) and len(outer.plan().stages) == 2
    flat = fuse([K.RandomHorizontalFlip(), K.RandomRotation(20.0, p=1.0), v2.ColorJitter(0.4)])
    assert torch.equal(outer(BYTES, seed=1), flat(BYTES, seed=1))


# Every transform of both libraries

KORNIA_ARGUMENTS = {
    "CenterCrop": (16,),
    "RandomCrop": ((16, 16),),
    "RandomResizedCrop": ((16, 16),),
    "Resize": ((16, 16),),
    "LongestMaxSize": (16,),
    "SmallestMaxSize": (16,),
    "PadTo": ((30, 30),),
    "Normalize": ((0.5,) * 3, (0.5,) * 3),
    "Denormalize": (torch.full((3,), 0.5), torch.full((3,), 0.5)),
    "RandomAffine": (30.0,),
    "RandomRotation": (30.0,),
    "RandomMotionBlur": (3, 30.0, 0.5),
    "RandomBoxBlur": ((3, 3),),
    "RandomGaussianBlur": ((3, 3), (0.1, 2.0)),
    "RandomMedianBlur": ((3, 3),),
    "RandomShear": (10.0,),
    "RandomRotation90": ((1, 3),),
    "RandomTranslate": ((0.1, 0.2),),
    "RandomFisheye": (torch.tensor([-0.3, 0.3]), torch.tensor([-0.3, 0.3]), torch.tensor([0.9, 1.0])),
    "ImageSequential": (K.RandomHorizontalFlip(),),
    "AugmentationSequential": (K.RandomHorizontalFlip(),),
}
TORCHVISION_ARGUMENTS = {
    "CenterCrop": (16,),
    "RandomCrop": (16,),
    "RandomResizedCrop": (16,),
    "Resize": ((16, 16),),
    "Normalize": ([0.5] * 3, [0.5] * 3),
    "RandomRotation": (30,),
    "RandomAffine": (30,),
    "ElasticTransform": (50.0, 1.0),
    "GaussianBlur": (3,),
    "JPEG": ((50, 90),),
    "Pad": (2,),
    "RandomResize": (16, 20),
    "RandomShortestSize": ((16, 20),),
    "ScaleJitter": ((16, 16),),
    "RandomPosterize": (4,),
    "RandomSolarize": (0.5,),
    "RandomAdjustSharpness": (2,),
    "Compose": ([v2.RandomHorizontalFlip()],),
    "RandomApply": ([v2.RandomHorizontalFlip()],),
    "RandomChoice": ([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()],),
    "RandomOrder": ([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()],),
    "Lambda": (lambda x: x,),
    "LinearTransformation": (torch.eye(3 * 21 * 27), torch.zeros(3 * 21 * 27)),
    "ToDtype": (torch.float32, True),
    "Grayscale": (3,),
}
# What is no transform of a batch of images alone: it blends, needs or leaves something else, or makes several of one.
ELSEWHERE = {
    "K.VideoSequential", "K.PatchSequential", "K.ManyToManyAugmentationDispather", "K.ManyToOneAugmentationDispather",
    "K.RandomDissolving", "v2.RandomIoUCrop", "v2.SanitizeBoundingBoxes", "v2.SanitizeKeyPoints", "v2.FiveCrop",
    "v2.TenCrop", "v2.ToPILImage", "v2.UniformTemporalSubsample", "v2.SetClampingMode", "v2.Transform",
    "v2.AutoAugmentPolicy", "v2.InterpolationMode", "v2.ConvertBoundingBoxFormat",
}  # fmt: skip
BLENDERS = {
    "K.PatchMix", "K.RandomCutMixV2", "K.RandomJigsaw", "K.RandomMixUpV2", "K.RandomMosaic", "K.RandomTransplantation",
    "v2.CutMix", "v2.MixUp",
}  # fmt: skip


def classes():
    """Yield the name of every transform of both libraries, and its maker."""
    for prefix, module, arguments in (("K", K, KORNIA_ARGUMENTS), ("v2", v2, TORCHVISION_ARGUMENTS)):
        for name in sorted(dir(module)):
            cls = getattr(module, name)
            full = f"{prefix}.{name}"
            if not inspect.isclass(cls) or "3D" in name or "Base" in name or full in ELSEWHERE:
                continue
            options = {"num_classes": 3} if full in ("v2.CutMix", "v2.MixUp") else {}
            yield pytest.param(full, cls, arguments.get(name, ()), options, id=full)


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(("name", "cls", "arguments", "options"), list(classes()))
def test_every_transform_runs(name, cls, arguments, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = cls(*arguments, **options)
        if name in BLENDERS:
            with pytest.raises(ValueError, match="blends images, but would leave their labels as they are"):
                fuse(module)
            return
        transform = fuse(module)
        for images in (BYTES, FLOATS):
            result = transform(images, seed=1)
            assert result.dtype is torch.float32 and result.shape[:2] == (6, 3) and result.isfinite().all()
            assert torch.equal(result, transform(images, seed=1))
            # Nothing comes out of its range but what is meant to.
            if name.split(".")[1] not in ("Normalize", "RandomGaussianNoise", "LinearTransformation"):
                assert result.min() >= -0.01 and result.max() <= 1.01
        # A range that is wrong by 255 would show.
        assert (transform(BYTES, seed=1) - transform(FLOATS, seed=1)).abs().mean() < 0.02
        if not transform.plan().stages[:1] or transform.plan().stages[0].kind != "opaque":
            with torch.random.fork_rng():
                expected = module(FLOATS.clone())
            assert result.shape == expected.shape


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "RandomRotation"])
def test_a_subclass_may_do_anything_and_runs_as_it_is(name):
    class Own(getattr(K, name)):
        def apply_transform(self, input, params, flags, transform=None):
            return torch.full_like(input, 0.25)

    module = Own(*KORNIA_ARGUMENTS.get(name, ()), p=1.0)
    transform = fuse([module])
    assert transform.plan().stages[0].kind == "opaque" and f"a subclass of Kornia's {name}" in str(transform.plan())
    assert (transform(BYTES) == 0.25).all()


def test_ones_own_module_runs_and_its_weights_stay_out_of_the_gradient():
    layer = nn.Conv2d(3, 3, 1)
    result = fuse([K.RandomHorizontalFlip(), layer])(FLOATS)
    assert result.shape == FLOATS.shape and not result.requires_grad


# Bad input


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (BYTES.long(), r"\(6, 3, 21, 27\) torch.int64"),
        (BYTES > 3, ".* torch.bool"),
        (FLOATS.to(torch.complex64), ".* torch.complex64"),
        (torch.rand(3, 4), r"\(3, 4\)"),
        (torch.rand(1, 2, 3, 4, 5), r"\(1, 2, 3, 4, 5\)"),
        (np.zeros((1, 3, 4, 4), np.float32), "ndarray"),
        ([], "an empty list"),
        ([BYTES], r"\(6, 3, 21, 27\) torch.uint8"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_images_is_refused(images, got):
    with pytest.raises(TypeError, match=rf"images must be \(N, C, H, W\), or a list of \(C, H, W\).*got {got}"):
        fuse(recipe())(images)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"positions": [1, 2]}, ValueError, "positions must be 6, one for each image, got 2"),
        ({"positions": [0, 1, -1, 2, 3, 4]}, ValueError, "positions must be at least 0, got -1"),
        ({"positions": [0.5] * 6}, TypeError, r"positions must be \(N,\) integers, got \(6,\) torch.float32"),
        ({"positions": torch.zeros(2, 3).long()}, TypeError, r"positions must be \(N,\) integers, got \(2, 3\)"),
        ({"positions": 3}, TypeError, r"positions must be \(N,\) integers, got \(\)"),
        ({"seed": -1}, ValueError, r"seed must be in 0\.\.2\*\*64-1, got -1"),
        ({"seed": 2**64}, ValueError, r"seed must be in 0\.\.2\*\*64-1"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        ({"epoch": 2**32}, ValueError, r"epoch must be in 0\.\.2\*\*32-1"),
        ({"labels": LABELS[:4]}, ValueError, "labels must be 6, one for each image, got 4"),
        ({"masks": torch.zeros(5, 21, 27)}, ValueError, "masks must be 6, one for each image, got 5"),
        ({"boxes": torch.zeros(6, 2, 5)}, ValueError, r"boxes must be \(N, M, 4\), or a list of \(M, 4\)"),
        ({"keypoints": torch.zeros(6, 2, 5)}, ValueError, r"keypoints must be \(…, 2\) or \(…, 3\)"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        fuse(recipe())(BYTES, **options)


@pytest.mark.parametrize(
    ("transform", "options", "error", "message"),
    [
        (None, {"backend": "tpu"}, ValueError, "backend must be one of auto, reference, cpu, cuda, got 'tpu'"),
        (None, {"interpolation": "cubic"}, ValueError, 'interpolation must be "nearest", "bilinear" or None'),
        (None, {"dtype": torch.int32}, TypeError, "dtype must be torch.uint8, a floating torch.dtype, or None"),
        (
            None,
            {"memory_format": torch.preserve_format},
            ValueError,
            "memory_format must be torch.contiguous_format or",
        ),
        (None, {"box_format": "yxyx"}, ValueError, "box_format must be one of xyxy, xywh, cxcywh, got 'yxyx'"),
        (None, {"min_area": -1.0}, ValueError, "min_area must be at least 0, got -1.0"),
        (None, {"min_visibility": 2.0}, ValueError, r"min_visibility must be in \[0, 1\], got 2.0"),
        (None, {"keypoint_origin": "top"}, ValueError, "keypoint_origin must be one of centre, corner, got 'top'"),
        (None, {"keypoints_outside": "x"}, ValueError, "keypoints_outside must be one of keep, drop, flag, got 'x'"),
        (v2.Normalize([0.5], [0.5]), {"dtype": torch.uint8}, ValueError, "Normalize leaves values outside"),
        (3, {}, TypeError, "transform must be callable or a list of callables, got int"),
        ([K.RandomHorizontalFlip(), None], {}, TypeError, "transform must be callable or a list of callables"),
    ],
)
def test_bad_options_are_named_at_once(transform, options, error, message):
    with pytest.raises(error, match=message):
        fuse(transform, **options)


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match=r"Normalize leaves values outside \[0, 1\], which torch.uint8 cannot hold"):
        fuse(recipe(), dtype=None)(BYTES)
    with pytest.raises(ValueError, match='backend="cuda" computes cuda tensors, got images on cpu'):
        fuse(recipe(), backend="cuda")(BYTES)
    with pytest.raises(TypeError, match=r"a target must be torchvision's Mask, BoundingBoxes or KeyPoints.*got Tensor"):
        fuse(recipe())(BYTES, torch.zeros(6, 2, 4))
    with pytest.raises(ValueError, match="images of a batch must have as many channels"):
        fuse(v2.Resize((5, 5)))([BYTES[0], BYTES[1, :1]])
    with pytest.raises(ValueError, match=r"MixUp.* blends labels, but the batch has none"):
        fuse(MixUp(alpha=1.0, num_classes=3))(BYTES)
    with pytest.raises(ValueError, match="RandomCrop cuts a window out of images that are at least as large"):
        fuse([K.RandomHorizontalFlip(), v2.RandomCrop(40)])(BYTES)
