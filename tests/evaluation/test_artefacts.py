import json

import pytest
import torch
import torch.nn.functional as F

from torchaug_gen import NoiseSynthesizer
from torchaug_gen.evaluation.artefacts import find_artefacts
from torchaug_gen.evaluation.sharpness import grid_share, log_spectrum, sharpness

pytestmark = pytest.mark.usefixtures("untouched_rng")


@pytest.fixture(scope="module")
def halves(pictures):
    """Return two halves of 240 photographs at 64 px, floating in [0, 1]."""
    images = pictures[0][:240] / 255
    return images[:120], images[120:]


def blurred(images):
    from torchvision.transforms.functional import gaussian_blur

    return gaussian_blur(images, 5, 0.7)


def noisy(images):
    return (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def repeated(images, factor=2):
    return F.interpolate(F.avg_pool2d(images, factor), scale_factor=factor, mode="nearest")


def transposed(images):
    """Halve, and double again by a transposed convolution whose kernel of 3 overlaps unevenly at stride 2."""
    kernel = torch.full((3, 1, 3, 3), 1 / 2.25)
    small = F.avg_pool2d(images, 2)
    return F.conv_transpose2d(small, kernel, stride=2, padding=1, output_padding=1, groups=3).clamp(0, 1)


def striped(images, period=3):
    """Brighten every third column by 6 %."""
    return (images * (1 + 0.06 * (torch.arange(64) % period == 0))).clamp(0, 1)


def checkered(images):
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    return (images * (1 + 0.03 * (2 * board - 1))).clamp(0, 1)


def test_real_against_real_passes(halves):
    pooled = torch.cat(halves)
    for seed in range(3):
        order = torch.randperm(240, generator=torch.Generator().manual_seed(seed))
        found = find_artefacts(pooled[order[:120]], pooled[order[120:]])
        assert found.found == ()
    assert str(found).startswith("No artefacts (120 real and 120 synthetic images)")


@pytest.mark.parametrize(
    ("spoil", "measure", "words"),
    [
        (blurred, "sharpness", "blurred: the Laplacian's variance"),
        (blurred, "high frequencies", "fine detail is missing"),
        (blurred, "spectrum", "spectra differ"),
        (noisy, "sharpness", "noisy or too sharp"),
        (noisy, "high frequencies", "jagged or noisy"),
        (repeated, "grid of 2 px", "a grid of 2 px shows"),
        (lambda x: repeated(x, 4), "grid of 4 px", "a grid of 4 px shows"),
        (lambda x: repeated(x, 8), "grid of 8 px", "a grid of 8 px shows"),
        (transposed, "grid of 2 px", "a grid of 2 px shows"),
        (checkered, "grid of 2 px", "a grid of 2 px shows"),
        (striped, "grid of 3 px", "a grid of 3 px shows"),
        *[(lambda x, p=p: striped(x, p), f"grid of {p} px", f"a grid of {p} px shows") for p in (5, 6, 7)],
        (lambda x: x * torch.tensor([1, 0.8, 1]).view(3, 1, 1), "colour", "colour of green drifted: darker"),
        (lambda x: (x - 0.5) * 0.7 + 0.5, "contrast", "drifted: less contrast"),
    ],
)
def test_planted_artefacts_are_found(halves, spoil, measure, words):
    found = find_artefacts(halves[0], spoil(halves[1]))
    assert found.measures[measure].found
    assert words in str(found)


@pytest.mark.parametrize(
    ("spoil", "clean"),
    [
        (blurred, ("grid of 2 px", "grid of 4 px", "grid of 8 px", "colour")),
        (noisy, ("grid of 2 px", "grid of 4 px", "grid of 8 px", "colour")),
        (lambda x: (x - 0.5) * 0.7 + 0.5, ("sharpness", "high frequencies", "spectrum", "grid of 2 px")),
    ],
)
def test_what_is_not_there_is_not_found(halves, spoil, clean):
    found = find_artefacts(halves[0], spoil(halves[1]))
    assert not set(clean) & set(found.found)


def test_the_worst_images_are_those_that_were_spoiled(halves):
    real, other = halves
    mixed = torch.cat((other[:90], blurred(blurred(other[90:]))))
    found = find_artefacts(real, mixed).measures["sharpness"]
    assert sum(row >= 90 for row in found.worst) >= 13
    mixed = torch.cat((other[:90], repeated(other[90:])))
    assert all(row >= 90 for row in find_artefacts(real, mixed).measures["grid of 2 px"].worst)


def test_few_images_find_little(halves):
    assert find_artefacts(halves[0][:10], halves[1][:10]).found == ()
    few, many = (find_artefacts(halves[0][:n], halves[1][:n]).measures["sharpness"].interval for n in (10, 120))
    assert few[1] - few[0] > 2 * (many[1] - many[0])


def test_spectrum_knows_the_frequency_of_a_wave_and_not_its_contrast():
    wave = torch.cos(2 * torch.pi * torch.arange(64) * 12 / 64).expand(1, 1, 64, 64)
    for contrast in (0.5, 0.05):
        spectrum = log_spectrum(0.5 + contrast * wave)
        assert spectrum.shape == (1, 33)
        assert int(spectrum.argmax()) == 12
    two = torch.cat((0.5 + 0.5 * wave, 0.5 + 0.25 * wave))
    assert sharpness(two).diff().abs() < 1e-3


def test_grid_share_is_about_none_for_noise_and_all_for_a_board():
    noise = torch.rand(50, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).expand(1, 1, 64, 64) * 0.5
    for period in (2, 4, 8):
        assert grid_share(noise, period).mean().abs() < 0.01
        assert grid_share(board, period) > 0.9


def test_blank_images_are_blank_and_neither_jagged_nor_sharp(halves):
    real, other = halves
    flat = torch.rand(120, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 64, 64)
    found = find_artefacts(real, flat)
    assert set(found.measures) == {"blank", "colour", "contrast"} and {"blank", "contrast"} <= set(found.found)
    assert "blank: 100% more images are one flat colour than real ones are" in str(found)
    some = find_artefacts(real, torch.cat((other[:90], flat[:30])))
    # Blank images lack contrast, and nothing else.
    assert "blank" in some.found and set(some.found) <= {"blank", "contrast"}
    assert set(some.measures["blank"].worst) <= set(range(90, 120))
    assert not any(row >= 90 for row in some.measures["sharpness"].worst)
    # Of images that are not blank all is told as without the others, and where they are among all.
    shown = find_artefacts(real, blurred(other[:90])).measures
    first = find_artefacts(real, torch.cat((flat[:30], blurred(other[:90])))).measures
    assert first["sharpness"].difference == pytest.approx(shown["sharpness"].difference)
    assert first["spectrum"].worst == tuple(row + 30 for row in shown["spectrum"].worst)


def test_odd_sizes_and_nothing_but_blank_images_are_no_trouble():
    blank = torch.zeros(10, 1, 17, 33)
    assert find_artefacts(blank, blank).found == ()
    json.dumps(find_artefacts(blank, blank + 0.5).as_json(), allow_nan=False)
    odd = torch.rand(10, 1, 17, 33, generator=torch.Generator().manual_seed(0))
    assert "grid of 4 px" in find_artefacts(odd, odd).measures


def test_a_synthesizer_is_measured_at_its_size(halves):
    found = find_artefacts(halves[0][:20], NoiseSynthesizer((3, 32, 32)))
    assert (found.real, found.synthetic) == (20, 20)
    assert "high frequencies" in found.found


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        ((9, 3, 16, 16), (12, 3, 16, 16), "at least 10 images a side, got 9 and 12"),
        ((9, 3, 16, 16), (9, 1, 16, 16), r"one shape \(C, H, W\), got \(3, 16, 16\) and \(1, 16, 16\)"),
        ((9, 3, 8, 16), (9, 3, 8, 16), "sides of at least 16, got 8 × 16"),
        ((0, 3, 16, 16), (9, 3, 16, 16), "at least one image to measure, got none"),
    ],
)
def test_images_that_cannot_be_judged_raise(real, synthetic, message):
    with pytest.raises(ValueError, match=message):
        find_artefacts(torch.zeros(real), torch.zeros(synthetic))
