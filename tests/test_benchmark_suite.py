"""The table of suites, and the command that runs them."""

import pytest

from benchmarks import common, suite
from benchmarks.__main__ import main
from benchmarks.suite import SUITES, Suite

NAMES = {each.name for each in SUITES}


def test_every_suite_is_a_module_of_the_folder():
    folder = common.RESULTS.parent
    assert all((folder / f"{each.module}.py").is_file() for each in SUITES)
    assert len(NAMES) == len(SUITES)


@pytest.mark.parametrize("path", sorted(common.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_comes_from_a_suite(path):
    found = common.load(path)
    (named,) = [each for each in SUITES if each.name == found["question"]]
    assert path.name.startswith(f"{named.name}-")
    if "command" in found:  # older files do not say it
        runs = [" ".join(["python", "-m", f"benchmarks.{named.module}", *run]) for run in named.runs(full=True)]
        assert found["command"] in runs or "=" in found["command"]


def test_full_runs_everything_but_what_takes_hours(capsys):
    assert main(["--full", "--list"]) == 0
    listed = {line.split(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert listed == NAMES - {"synthesis-photographs", "synthesis-fashion-mnist", "usefulness"}
    assert main(["--full", "--only", "usefulness", "--list"]) == 0
    assert capsys.readouterr().out.startswith("usefulness: ")


def test_quick_and_full_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        main(["--quick", "--full"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.fixture
def ran(monkeypatch):
    """The commands that would have been run; those of a module ``fails`` fail."""
    commands = []

    class Done:
        def __init__(self, command):
            self.returncode = int("benchmarks.fails" in command)

    def run(command, **options):
        commands.append(" ".join(command[1:]))
        return Done(command)

    monkeypatch.setattr(suite.subprocess, "run", run)
    return commands


def test_one_that_fails_does_not_keep_the_others_from_running(ran):
    both = [Suite("a", "fails", 1), Suite("b", "works", 1, [["--x"], ["--y"]])]
    assert suite.run(both, full=True, environment={}) == 1
    assert ran == ["-m benchmarks.fails", "-m benchmarks.works --x", "-m benchmarks.works --y"]
    ran.clear()
    assert suite.run(both, full=False, environment={}) == 1
    assert ran == ["-m benchmarks.fails --quick", "-m benchmarks.works --quick"]


def test_what_cannot_be_run_is_said(ran, capsys):
    needs = Suite("a", "works", 1, [["--data", "photographs={FOLDER}"]], needs=["FOLDER"], quick=None)
    assert suite.run([needs], full=True, environment={}) == 0
    assert "a: not run: set FOLDER" in capsys.readouterr().out
    assert suite.run([needs], full=False, environment={"FOLDER": "/f"}) == 0
    assert "no quick form" in capsys.readouterr().out
    assert ran == []
    suite.run([needs], full=True, environment={"FOLDER": "/f"})
    assert ran == ["-m benchmarks.works --data photographs=/f"]
