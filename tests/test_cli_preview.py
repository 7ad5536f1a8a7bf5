"""``torchaug-gen preview``."""

import pytest
import torch
from torchvision.io import read_image, write_jpeg

from torchaug_gen import NoiseSynthesizer, cli

PIPELINE = """
from torchvision.transforms import v2
flips = [v2.RandomHorizontalFlip(p=1.0)]
still = v2.Normalize([0.5] * 3, [0.25] * 3)
"""


@pytest.fixture
def folder(tmp_path):
    """Two classes with two photographs each, dark on the left and of different sizes."""
    for label, (height, width) in enumerate([(30, 40), (40, 24)]):
        place = tmp_path / "data" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(2):
            image = torch.zeros(3, height, width, dtype=torch.uint8)
            image[:, :, width // 2 :] = 200
            write_jpeg(image, str(place / f"{number}.jpg"))
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    return tmp_path


def preview(folder, *options):
    out = folder / "sheet.png"
    status = cli.main(["preview", str(folder / "data"), "--out", str(out), "--image-size", "32", *options])
    return status, read_image(str(out)) if out.exists() else None


def test_a_sheet_has_a_row_for_each_image_and_a_column_for_each_epoch(folder, capsys):
    status, sheet = preview(folder, "--n", "3", "--views", "4")
    assert status == 0 and sheet.shape == (3, 3 * 32, 5 * 32 + 8)
    views = sheet[:, :32, 40:].unflatten(2, (4, 32))
    assert not torch.equal(views[:, :, 0], views[:, :, 1])
    assert "RandomResizedCrop, RandomHorizontalFlip: one homography" in capsys.readouterr().out


def test_a_named_transform_is_shown_for_what_it_does(folder):
    status, sheet = preview(folder, "--transform", f"{folder / 'pipeline.py'}:flips", "--n", "1", "--views", "1")
    image, view = sheet[:, 8:24, :32].float(), sheet[:, 8:24, 40:].float()
    assert status == 0 and (image.flip(2) - view).abs().max() <= 2 < (image - view).abs().max()


def test_normalized_values_are_shown_between_black_and_white(folder, capsys):
    status, sheet = preview(folder, "--transform", f"{folder / 'pipeline.py'}:still", "--n", "1")
    assert status == 0 and "are shown from black to white" in capsys.readouterr().out
    assert sheet[:, 16, 46].max() < 20 and sheet[:, 16, 66].min() > 235


def test_synthetic_images_have_rows_of_their_own(folder, monkeypatch):
    from torchaug_gen import Synthesizer

    monkeypatch.setattr(Synthesizer, "load", lambda path, trust: NoiseSynthesizer((1, 16, 16)))
    status, sheet = preview(folder, "--synthesizer", "run", "--n", "2", "--views", "2")
    assert status == 0 and sheet.shape[1] == 4 * 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--transform", "pipeline"], "must be FILE.py:NAME or package.module:NAME, got 'pipeline'"),
        (["--transform", "{folder}/pipeline.py:flop"], "there is no 'flop' in {folder}/pipeline.py, which has flips"),
        (["--transform", "{folder}/nothing.py:flips"], "No such file"),
        (["--transform", "no_such_package:flips"], "No module named 'no_such_package'"),
        (["--views", "0"], "views must be at least 1, got 0"),
        (["--synthesizer", "nowhere"], "no run folder and no file at nowhere"),
    ],
)
def test_what_is_wrong_is_said(folder, capsys, options, message):
    status, sheet = preview(folder, *(option.format(folder=folder) for option in options))
    assert status == 2 and sheet is None
    assert message.format(folder=folder) in capsys.readouterr().err
