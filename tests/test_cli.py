import pytest

from torchaug_gen import cli, demo


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
