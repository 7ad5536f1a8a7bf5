"""The benchmarks' result files, comparisons and tables."""

import copy

import pytest

from benchmarks import common, compare, scaling, schema, tables
from benchmarks.suite import SUITES

RESULTS = sorted(common.RESULTS.glob("*.json"))


def document(rates=None):
    rates = rates or {"theirs": [10.0, 11.0, 12.0], "ours": [20.0, 22.0, 24.0]}
    about = {"processor": "x", "cores": 2, "threads": 1, "gpu": None, "python": "3", "commit": None, "load_average": []}
    return {
        "version": schema.VERSION,
        "question": "speed",
        "unit": "images/s",
        "settings": {},
        "machine": about | {"versions": {"torch": "2", "torchaug_gen": "0"}},
        "results": {"case": common.case(rates, baseline="theirs")},
    }


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_have_the_form(path):
    common.load(path)


def test_there_are_committed_results():
    assert RESULTS


def test_a_result_without_quartiles_is_refused():
    broken = document()
    del broken["results"]["case"]["summary"]["ours"]["quartile_low"]
    with pytest.raises(ValueError, match=r"results/case/summary/ours: 'quartile_low' is a required"):
        schema.validate(broken)


def test_ratios_are_taken_round_by_round():
    # A machine that slows down threefold slows both: the ratio stays.
    summary = common.summarise({"theirs": [10.0, 5.0, 3.0], "ours": [20.0, 10.0, 6.0]}, baseline="theirs")
    assert summary["ours"]["ratio_to_baseline"] == 2
    assert not summary["ours"]["too_noisy"]


def test_a_spread_that_is_too_wide_is_not_reported():
    summary = common.summarise({"theirs": [10.0, 10.0, 10.0], "ours": [10.0, 20.0, 40.0]}, baseline="theirs")
    assert summary["ours"]["too_noisy"]
    assert "too noisy" in common.said_ratio(summary["ours"])
    assert tables.times(summary["ours"]) == "too noisy"


def test_a_share_of_the_limit_is_said():
    case = common.case({"ours": [5.0, 5.0]}, baseline="ours", limit={"what": "copying", "value": 20.0})
    assert case["summary"]["ours"]["share_of_limit"] == 0.25


def test_comparing_tells_what_moved_from_noise():
    before = document()
    after = document({"theirs": [10.0, 11.0, 12.0], "ours": [40.0, 44.0, 48.0]})
    moved = {change.contestant: change.moved for change in compare.changes(before, after)}
    assert moved == {"theirs": False, "ours": True}
    assert not any(change.moved for change in compare.changes(before, copy.deepcopy(before)))


def test_results_of_other_questions_are_not_compared():
    with pytest.raises(ValueError, match="one question"):
        list(compare.changes(document(), document() | {"question": "memory"}))


def test_the_fitted_exponent_is_that_of_the_power_law():
    x = [1, 2, 4, 8]
    assert scaling.fit(x, [3 * value**1.5 for value in x]) == pytest.approx(1.5)
    assert scaling.fit(x, [7.0] * 4) == pytest.approx(0)


def test_the_tables_are_those_of_the_result_files():
    differ = tables.write(check=True)
    assert not differ, f"run python -m benchmarks tables: {differ} differ"


def test_an_unknown_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text("<!-- table: nothing -->\n<!-- end of table -->")
    monkeypatch.setattr(tables, "FILES", (path,))
    with pytest.raises(ValueError, match="'nothing'"):
        tables.write()


def test_every_suite_is_a_module_of_the_folder():
    folder = common.RESULTS.parent
    assert all((folder / f"{suite.name}.py").is_file() for suite in SUITES)
