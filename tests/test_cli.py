import os
import re
import signal
from dataclasses import fields

import pytest
import torch
from PIL import Image

from torchaug_gen import Synthesizer, cli, demo, write_shards
from torchaug_gen.cli import train


def test_version_and_help(capsys):
    for arguments in (["--version"], ["--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "torchaug-gen 0." in out
    assert "pixels" in out and "(default: 50)" in out


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["demo", "--per-class", "many"]])
def test_arguments_that_do_not_parse_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--synthetic-fraction", "1.4"], "synthetic_fraction must be in [0, 1), got 1.4"),
        (["--synthetic-fraction", "nan"], "synthetic_fraction must be in [0, 1), got nan"),
        (["--per-class", "0"], "per_class must be at least 1, got 0"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--image-size", "4"], "image_size must be in 16..128, got 4"),
        (["--seed", "-1"], "seed must be in 0..2**64-1, got -1"),
        (["--device", "abacus"], "device must be one that PyTorch can use here"),
        (["--data", "nowhere"], "no folder nowhere"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("torchaug-gen: ") and message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", interrupted)
    assert cli.main(["demo"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_options_reach_the_demo(monkeypatch, capsys):
    seen = {}

    def spy(out, **options):
        seen.update(options, out=out)
        return "the report"

    monkeypatch.setattr(demo, "run_demo", spy)
    options = "--out o --data d --per-class 7 --seeds 2 --steps 9 --vae-steps 8 --synthetic-fraction 0.2"
    options += " --image-size 32 --seed 5"
    assert cli.main(["demo", *options.split()]) == 0
    assert seen == {
        "out": "o",
        "data": "d",
        "per_class": 7,
        "seeds": 2,
        "steps": 9,
        "vae_steps": 8,
        "synthetic_fraction": 0.2,
        "image_size": 32,
        "device": "cpu",
        "seed": 5,
    }
    assert capsys.readouterr().out == "the report\n"


def test_the_help_names_the_real_defaults(capsys):
    from torchaug_gen.demo.settings import DIGITS, PHOTOGRAPHS

    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"each classifier (default: {DIGITS.steps}; with --data {PHOTOGRAPHS.steps})" in words
    assert f"of the VAE (default: {DIGITS.vae.steps}; with --data {PHOTOGRAPHS.vae.steps})" in words
    assert f"in pixels (default: {DIGITS.image_size}; with --data {PHOTOGRAPHS.image_size})" in words


def write_tree(path, classes=("cat", "dog"), n=6):
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(n):
            Image.new("RGB", (12, 12), (40 * index, 100 * number, 9)).save(path / name / f"{index}.png")


SMALL = ["--steps", "4", "--batch-size", "4", "--width", "4", "--latent-dim", "4", "--checkpoint-every", "2"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_tree(folder / "data")
    assert cli.main(["train", "vae", str(folder / "data"), "--out", str(folder / "run"), *SMALL]) == 0
    return folder / "run"


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_the_help_of_train_names_the_real_defaults(capsys, kind):
    with pytest.raises(SystemExit):
        cli.main(["train", kind, "--help"])
    words = " ".join(capsys.readouterr().out.split())
    config_type, _ = train._trainer(kind)
    defaults = {field.name: field.default for field in fields(config_type)}
    if kind == "gan":
        defaults |= {"learning_rate": 0.001, "latent_dim": 64, "width": 32, "gamma": 10, "ema_images": 10_000}
        defaults |= {"beta2": "0.99 throughout", "augment": "all below 10,000 images, else none", "transition": 0.5}
    else:
        defaults |= {"learning_rate": 0.004}
    for name, _, _ in (*train._COMMON, *train._KINDS[kind][0]):
        default = defaults[name.replace("-", "_")]
        shown = re.search(rf"--{name} [\w,.]+ .*?\(default: ([^);]+)", words)[1]
        if name == "transition":
            shown = shown.split()[0]
        assert shown == "as they are" if default is None else type(default)(shown) == default, name


def test_operations_are_told_by_commas(tmp_path):
    write_tree(tmp_path / "data")
    options = [
        "--image-size",
        "8",
        "--augment",
        "colour,cutout",
        "--mirror",
        "--transition",
        "0.25",
        "--grid-every",
        "0",
    ]
    assert cli.main(["train", "gan", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *SMALL, *options]) == 0
    from torchaug_gen.synthesis.training.loop import read_settings

    told = read_settings(tmp_path / "run")
    assert (told["augment"], told["mirror"], told["transition"]) == (["colour", "cutout"], True, 0.25)
    assert cli.main(["train", "gan", str(tmp_path / "data"), "--out", str(tmp_path / "other"), "--augment", "x"]) == 2


def test_a_gan_learns_what_its_help_says_of_its_recipe():
    from torchaug_gen.synthesis.training.data import TrainingImages

    config_type, _ = train._trainer("gan")
    resolved = config_type().resolved(TrainingImages(torch.zeros(4, 1, 32, 32, dtype=torch.uint8), None, None))
    shown = train._KINDS["gan"][1]
    first = {name: float(value.split(";")[0]) for name, value in shown.items()}
    assert first == {name: getattr(resolved, name) for name in shown}
    assert resolved.gamma == 10


def test_train_writes_a_run_and_says_how_to_draw(run_folder, tmp_path, capsys):
    assert Synthesizer.load(run_folder).classes == ("cat", "dog")
    grid = tmp_path / "grid.png"
    assert cli.main(["sample", str(run_folder), "--n", "6", "--columns", "3", "--out", str(grid)]) == 0
    assert capsys.readouterr().out == f"6 images in {grid}\n"
    with Image.open(grid) as image:
        assert image.size == (3 * 14 + 2, 2 * 14 + 2)


def sampled(run, tmp_path, *options):
    out = tmp_path / "sampled.png"
    assert cli.main(["sample", str(run), "--n", "8", "--columns", "4", "--out", str(out), *options]) == 0
    return out.read_bytes()


def test_options_of_sample_decide_what_is_drawn(run_folder, tmp_path):
    plain = sampled(run_folder, tmp_path)
    assert plain == sampled(run_folder, tmp_path, "--truncation", "1")
    by_name = sampled(run_folder, tmp_path, "--class", "dog")
    assert by_name == sampled(run_folder, tmp_path, "--class", "1")
    others = [("--truncation", "0.3"), ("--interpolate",), ("--seed", "1"), ("--class", "cat")]
    drawn = {sampled(run_folder, tmp_path, *options) for options in others}
    assert len(drawn | {plain, by_name}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "n must be at least 1, got 0"),
        (["--columns", "0"], "columns must be at least 1"),
        (["--columns", "1", "--interpolate"], "columns must be at least 2 to interpolate, got 1"),
        (["--truncation", "0"], "truncation must be above 0 and finite, got 0.0"),
        (["--truncation", "nan"], "truncation must be above 0 and finite, got nan"),
        (["--class", "cow"], "class must be one of cat, dog, got 'cow'"),
        (["--class", "2"], "class must be in 0..1, got 2"),
        (["--seed", "-1"], "seed must be in 0..2**64-1, got -1"),
        (["--device", "abacus"], "device must be one that PyTorch can use here"),
        (["--sha256", "00"], "SHA-256"),
    ],
)
def test_bad_options_of_sample_are_one_line(run_folder, tmp_path, options, message, capsys):
    out = tmp_path / "grid.png"
    assert cli.main(["sample", str(run_folder), "--out", str(out), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not out.exists()


def test_sample_draws_from_foreign_files(tmp_path, capsys):
    script = tmp_path / "net.pt"
    net = torch.nn.Sequential(torch.nn.Linear(3, 3 * 8 * 8), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 8, 8)))
    torch.jit.trace(net, torch.zeros(32, 3)).save(str(script))
    told = ["--latent-dim", "3", "--image-shape", "3", "8", "8", "--value-range", "-1", "1"]
    no = ["sample", str(script), "--out", str(tmp_path / "no.png")]
    assert cli.main([*no, *told]) == 2
    assert "pass --trust if you trust who wrote it" in capsys.readouterr().err
    assert cli.main([*no, *told[2:], "--trust"]) == 2
    assert "does not say latent_dim: pass --latent-dim, or write it into net.json" in capsys.readouterr().err
    assert cli.main([*no, *told[:-2], "0", "1", "--trust"]) == 2
    assert "position 0; --value-range says what the network gives" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
    assert sampled(script, tmp_path, "--trust", *told) != sampled(script, tmp_path, "--trust", "--interpolate", *told)


def test_an_unfinished_training_is_neither_lost_nor_forgotten(run_folder, tmp_path, capsys, monkeypatch):
    from torchaug_gen.synthesis.vae.training import VaeRecipe

    data, out = run_folder.parent / "data", tmp_path / "run"
    train = ["train", "vae", str(data), "--out", str(out)]
    step = VaeRecipe.step

    def interrupted(self, batch, number, *, reduce):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, number, reduce=reduce)

    with monkeypatch.context() as patch:
        patch.setattr(VaeRecipe, "step", interrupted)
        assert cli.main([*train, *SMALL]) == 130
    err = capsys.readouterr().err
    assert "stopped after step 3 of 4" in err and "--resume" in err and "Traceback" not in err
    assert cli.main(["sample", str(out)]) == 2
    err = capsys.readouterr().err
    assert f"{out} has no synthesizer yet, its training stopped after step 3: torchaug-gen train ... --resume" in err
    assert cli.main([*train, *SMALL]) == 2
    assert "holds a training that stopped after step 3 of 4: go on with --resume" in capsys.readouterr().err
    assert cli.main([*train, "--resume", "--beta", "2"]) == 2
    assert "settings.beta was 8.0 when the training began, and is 2.0 now" in capsys.readouterr().err
    # Options are those of then.
    assert cli.main([*train, "--resume"]) == 0
    assert (out / "weights.safetensors").read_bytes() == (run_folder / "weights.safetensors").read_bytes()
    capsys.readouterr()
    assert cli.main([*train, *SMALL]) == 2
    assert "holds a training that is finished, with 4 steps: go on with --resume and more" in capsys.readouterr().err
    assert cli.main(["train", "gan", *train[2:], "--resume"]) == 2
    assert "a training of another kind or version" in capsys.readouterr().err
    assert cli.main([*train[:4], str(tmp_path / "new"), "--resume"]) == 2
    assert "no training in" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_train_learns_no_classes_where_there_are_none_or_none_are_wanted(tmp_path, kind):
    write_tree(tmp_path / "tree")
    write_tree(tmp_path / "one", classes=("cat",))
    items = [(torch.full((3, 12, 12), 20 * index, dtype=torch.uint8), index % 2) for index in range(6)]
    write_shards(items, tmp_path / "labelled", image_format="png")
    write_shards([(image,) for image, _ in items], tmp_path / "bare", image_format="png", fields=("png",))
    cases = {"tree": None, "one/cat": None, "labelled": None, "bare": None, "one": 1}
    for data, classes in cases.items():
        out = tmp_path / "runs" / data.replace("/", "-")
        train = ["train", kind, str(tmp_path / data), "--out", str(out), *SMALL]
        options = ["--unconditional"] if data in ("tree", "labelled") else []
        assert cli.main([*train, *options]) == 0
        synthesizer = Synthesizer.load(out)
        assert (synthesizer.num_classes, synthesizer.classes) == (classes, classes and ("cat",)), data
        assert synthesizer.sample(2)[0].shape == (2, 3, 12, 12)
    assert cli.main([*train[:2], str(tmp_path / "tree"), "--out", str(tmp_path / "runs" / "tree"), "--resume"]) == 0


def test_train_reads_shards(tmp_path):
    items = [(torch.full((3, 8, 8), 20 * index, dtype=torch.uint8), index % 2) for index in range(6)]
    write_shards(items, tmp_path / "shards", image_format="png")
    assert cli.main(["train", "vae", str(tmp_path / "shards"), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert Synthesizer.load(tmp_path / "run").num_classes == 2
