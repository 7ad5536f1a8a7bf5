"""What is said to have moved between two result files."""

import copy
import json

import pytest
from fake_results import curve, document

from benchmarks.__main__ import main
from benchmarks.compare import changes, differences

THEIRS = [10.0, 10.5, 11.0, 11.5, 12.0]


def only(before, after):
    (change,) = [change for change in changes(before, after) if change.contestant == "ours"]
    return change


def test_comparing_tells_what_moved_from_noise():
    before = document()
    after = document({"theirs": THEIRS, "ours": [40.0, 42.0, 44.0, 46.0, 48.0]})
    moved = {change.contestant: change.moved for change in changes(before, after)}
    assert moved == {"theirs": False, "ours": True}
    assert str(only(before, after)).endswith("2.00 ×, better")
    assert not any(change.moved for change in changes(before, copy.deepcopy(before)))


def test_more_time_is_worse():
    before = document(better="lower")
    after = document({"theirs": THEIRS, "ours": [40.0, 42.0, 44.0, 46.0, 48.0]}, better="lower")
    assert str(only(before, after)).endswith("2.00 ×, worse")


def test_what_is_too_noisy_has_not_moved():
    noisy = document({"theirs": THEIRS, "ours": [40.0, 60.0, 100.0, 200.0, 400.0]})
    for change in (only(document(), noisy), only(noisy, document())):
        assert not change.moved
        assert str(change) == "case: ours: ratio: too noisy to tell"


def test_few_rounds_tell_nothing():
    few = document({"theirs": [10.0, 10.0], "ours": [40.0, 40.0]}) | {"quick": True}
    assert "too few rounds" in str(only(document(), few))
    assert not only(document(), few).moved


def test_points_of_curves_are_compared():
    one, other = ({**document(), "results": {"curves": {"c": curve(values)}}} for values in ([1.0, 2.0], [1.0, 4.0]))
    moved = {change.contestant: change.moved for change in changes(one, other)}
    assert moved == {"images 1": False, "images 2": True}
    few = {**document(), "results": {"curves": {"c": curve([1.0, 4.0], rounds=1)}}}
    assert not any(change.moved for change in changes(one, few))


def test_what_was_not_alike_is_said():
    before, after = document(), document()
    assert differences(before, after) == []
    after["machine"] |= {"threads": 2, "versions": {"torch": "3", "torchaug_gen": "0"}}
    after["settings"] = {"rounds": 9}
    del after["results"]["case"]["summary"]["ours"]
    assert differences(before, after) == [
        "not alike: threads 1, then 2",
        "not alike: versions: torch 2, then 3",
        "not alike: settings: rounds None, then 9",
        "not alike: contestants of case: ['ours', 'theirs'], then ['theirs']",
    ]


def test_results_of_other_questions_are_not_compared():
    with pytest.raises(ValueError, match="one question"):
        list(changes(document(), document() | {"question": "memory"}))


def test_the_command_says_what_moved_first(tmp_path, capsys):
    after = document({"theirs": THEIRS, "ours": [40.0, 42.0, 44.0, 46.0, 48.0]})
    after["machine"]["threads"] = 2
    for name, found in (("before", document()), ("after", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert main(["compare", str(tmp_path / "before.json"), str(tmp_path / "after.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not alike: threads 1, then 2"
    assert "ours: ratio" in lines[1]
    assert "better" in lines[1]
    assert "within noise" in lines[2]
