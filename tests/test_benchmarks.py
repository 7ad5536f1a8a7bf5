"""The benchmarks' figures, and the form of their result files."""

import copy
import json
import subprocess

import pytest
from fake_results import document

from benchmarks import common, machine, rounds, schema
from benchmarks.growth import fit

RESULTS = sorted(common.RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_have_the_form(path):
    assert not common.load(path).get("quick")


def test_there_are_committed_results():
    assert RESULTS


def broken(**results):
    return document() | {"results": results}


def test_a_result_without_quartiles_is_refused():
    found = document()
    del found["results"]["case"]["summary"]["ours"]["quartile_low"]
    with pytest.raises(ValueError, match=r"results/case/summary/ours: 'quartile_low' is a required"):
        schema.validate(found)


@pytest.mark.parametrize(
    ("results", "place"),
    [
        ({"case": {"sumary": {}}}, "results/case"),
        ({"case": {}}, "results/case"),
        ({"case": {"baseline": "theirs", "summary": {}}}, "results/case/summary"),
        ({"case": document()["results"]["case"] | {"extra": 1}}, "results/case"),
        ({"case": document()["results"]["case"] | {"baseline": "nobody"}}, "results/case/baseline"),
        ({"curves": {"x": {}}}, "results/curves/x"),
        ({"curves": {}}, "results/curves"),
        ({"models": {"x": {}}}, "results/models/x"),
        ({"memory": {"x": {}}}, "results/memory/x"),
        ({"a gate": {"agreement": "high"}}, "results/a gate/agreement"),
    ],
)
def test_what_is_no_result_is_refused(results, place):
    with pytest.raises(ValueError, match=f"malformed at {place}"):
        schema.validate(broken(**results))


def test_a_median_of_few_rounds_is_for_quick_runs_only():
    few = document({"theirs": [1.0, 1.0], "ours": [2.0, 2.0]})
    schema.validate(few | {"quick": True})
    with pytest.raises(ValueError, match="expected 5 rounds at least, got 2"):
        schema.validate(few)


def test_ratios_are_taken_round_by_round():
    # A machine that slows down threefold slows both: the ratio stays.
    summary = common.summarise({"theirs": [10.0, 5.0, 3.0], "ours": [20.0, 10.0, 6.0]}, baseline="theirs")
    assert summary["ours"]["ratio_to_baseline"] == 2
    assert not summary["ours"]["too_noisy"]


def test_nothing_is_a_multiple_of_nothing():
    with pytest.raises(ValueError, match=r"figures of the baseline 'theirs' must be above 0, got 0"):
        common.summarise({"theirs": [0.0, 1.0], "ours": [1.0, 1.0]}, baseline="theirs")
    summary = common.summarise({"theirs": [0.0, 0.0], "ours": [1.0, 1.0]}, baseline=None)
    assert "ratio_to_baseline" not in summary["ours"]
    assert common.said(summary["theirs"]) == "0"


def test_a_spread_that_is_too_wide_is_not_reported():
    summary = common.summarise({"theirs": [10.0, 10.0, 10.0], "ours": [10.0, 20.0, 40.0]}, baseline="theirs")
    assert summary["ours"]["too_noisy"]
    assert "too noisy" in common.said_ratio(summary["ours"])
    assert common.said(summary["ours"]) == "too noisy"
    printed = common.table(summary, unit="images/s").splitlines()[1]
    assert not any(figure in printed for figure in ("20", "15", "30"))


def test_a_rate_that_varies_says_between_what():
    # The machine slowed down threefold; the ratio stands, and the rate is no single figure.
    summary = common.summarise({"theirs": [30.0, 20.0, 10.0], "ours": [60.0, 40.0, 20.0]}, baseline="theirs")
    assert common.said(summary["ours"]) == "30 to 50"
    assert common.said_ratio(summary["ours"]) == "2 × baseline"


def test_a_share_of_the_limit_is_said():
    most = {"what": "copying", "value": 20.0}
    case = common.case({"ours": [5.0, 5.0]}, baseline="ours", limit=most)
    assert case["summary"]["ours"]["share_of_limit"] == 0.25
    # What holds twice the memory that it must is at half of the limit.
    case = common.case({"ours": [40.0, 40.0]}, baseline="ours", limit=most, better="lower")
    assert case["summary"]["ours"]["share_of_limit"] == 0.5


def test_the_interval_holds_the_median_in_95_of_100_cases():
    assert common.median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert common.median_interval([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == [1.0, 6.0]
    # Tables of the sign test: the 22nd smallest and the 39th of sixty.
    assert common.median_interval([float(value) for value in range(1, 61)]) == [22.0, 39.0]


def test_contestants_take_turns_and_the_first_round_does_not_count():
    called, turns = [], iter(range(100))

    def contestant(name):
        return lambda: called.append(name) or float(next(turns))

    figures = rounds.take_turns({"a": contestant("a"), "b": contestant("b")}, rounds=3)
    assert "".join(called) == "ba" + "ab" + "ba" + "ab"
    assert figures == {"a": [2, 5, 6], "b": [3, 4, 7]}


def test_five_rounds_are_taken_however_long_they_take():
    assert len(rounds.take_turns({"a": lambda: 1.0}, rounds=50, seconds=0)["a"]) == rounds.FEWEST == 5


def test_who_fails_drops_out_and_says_why():
    def failing():
        raise RuntimeError("no such recipe")

    absent = {}
    assert rounds.take_turns({"a": failing, "b": lambda: 1.0}, rounds=2, absent=absent) == {"b": [1, 1]}
    assert absent == {"a": "failed in round 0: no such recipe"}
    with pytest.raises(RuntimeError, match="no such recipe"):
        rounds.take_turns({"a": failing}, rounds=2)


@pytest.mark.parametrize(("constant", "exponent"), [(0.0, 1.5), (7.0, 1.0), (3.0, -1.0), (50.0, 2.0)])
def test_the_fitted_law_is_that_of_the_points(constant, exponent):
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    law = fit(x, [constant + 3 * value**exponent for value in x])
    assert law.exponent == pytest.approx(exponent, abs=0.02)
    assert law.constant == pytest.approx(constant, abs=0.1)
    assert law.r_squared > 0.999
    assert not law.flat


def test_a_cost_that_does_not_grow_is_flat():
    law = fit([1, 2, 4, 8], [7.0] * 4)
    assert law.flat
    assert law.at(100) == pytest.approx(7.0)


def test_a_law_over_a_measured_constant_keeps_it():
    law = fit([1, 2, 4], [12.0, 14.0, 18.0], constant=10.0)
    assert (law.constant, law.factor, law.exponent) == (10.0, pytest.approx(2.0), pytest.approx(1.0))


def git(folder, *words):
    subprocess.run(["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a", *words], check=True, timeout=30)


def test_saving_and_describing_results_leaves_the_commit_as_it_was(tmp_path):
    for name in ("benchmarks/results/a.json", "benchmarks/README.md", "README.md", "torchaug_gen/a.py", "tests/a.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    assert machine.commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "code")
    measured = machine.commit(tmp_path)
    assert measured
    for name in ("benchmarks/results/a.json", "benchmarks/results/b.png", "benchmarks/README.md", "README.md"):
        (tmp_path / name).write_text("2")
    assert machine.commit(tmp_path) == measured
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "results")
    assert machine.commit(tmp_path) == measured
    (tmp_path / "torchaug_gen" / "a.py").write_text("2")
    assert machine.commit(tmp_path) == f"{measured}-dirty"


def test_files_are_named_for_what_was_measured(monkeypatch):
    monkeypatch.setattr(machine.torch.cuda, "get_device_name", lambda: "NVIDIA H200 NVL")
    assert common.result_path("loader", device="cuda").name == "loader-nvidia-h200-nvl.json"
    # On a machine with a GPU too, what ran on the processor is the processor's.
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    assert common.result_path("imports").name == "imports-cpu.json"
    assert machine.describe()["gpu"] is None
    assert machine.describe(device="cuda")["gpu"] == "NVIDIA H200 NVL"


def test_a_quick_run_is_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    results = document({"theirs": [1.0, 1.0], "ours": [2.0, 2.0]})["results"]
    with pytest.raises(ValueError, match="5 rounds"):
        common.save("speed", {}, results, unit="images/s")
    path = common.save("speed", {}, results, unit="images/s", threads=7, quick=True)
    assert path == tmp_path / "quick" / "speed-cpu.json"
    saved = common.load(path)
    assert saved["quick"]
    assert saved["seconds"] >= 0
    assert saved["machine"]["threads"] == 7
    assert {"numba", "pillow"} <= set(saved["machine"]["versions"])
    assert not list(tmp_path.glob("*.json"))


def test_the_command_says_nothing_of_where_things_lie(monkeypatch):
    script = str(common.RESULTS.parent / "shards.py")
    monkeypatch.setattr(common.sys, "argv", [script, "/home/somebody/photographs", "--data", "a=/home/b", "c=d/e"])
    assert common.command() == "python -m benchmarks.shards photographs --data a=b c=d/e"


def test_documents_are_not_changed_by_validation():
    before = document()
    after = copy.deepcopy(before)
    schema.validate(after)
    assert json.dumps(before) == json.dumps(after)
