"""Plots and tables, from nothing but result files."""

import json

import matplotlib
import pytest
from fake_results import curve, document

from benchmarks import common, plots, tables
from benchmarks.__main__ import main

matplotlib.use("Agg")
NOISY = [10.0, 40.0, 100.0, 400.0, 900.0]


@pytest.fixture
def axis():
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def texts(axis):
    return [text.get_text().strip() for text in axis.texts]


def test_every_result_is_drawn_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    found = document()
    found["results"]["curves"] = {"cost": curve([1.0, 2.0, 4.0])}
    (tmp_path / "speed-cpu.json").write_text(json.dumps(found))
    gates = document() | {"results": {"no gate": {"agreement": 0.5}}}
    (tmp_path / "gates-cpu.json").write_text(json.dumps(gates))
    assert main(["plot"]) == 0
    assert capsys.readouterr().out.splitlines() == ["gates-cpu.json: nothing to draw", "speed-cpu.json: speed-cpu.png"]
    assert (tmp_path / "speed-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_usefulness_draws_its_own(tmp_path, monkeypatch):
    from benchmarks import usefulness

    path = tmp_path / "usefulness-cpu.json"
    stage = {"name": "clothing", "rows": [], "comparisons": []}
    path.write_text(json.dumps(document() | {"question": "usefulness", "results": {"clothing": stage}}))
    monkeypatch.setattr(usefulness, "plot", lambda path: [path.with_suffix(".png")])
    assert plots.plot(path) == [tmp_path / "usefulness-cpu.png"]


def test_a_case_says_what_it_is(axis):
    case = document(title="what is done", better="lower", limit={"what": "copying", "value": 2.0})["results"]["case"]
    plots.draw_case(axis, "R1", case, unit="seconds")
    assert axis.get_title() == "R1\nwhat is done"
    assert axis.get_xlabel() == "seconds (less is better); the limit, copying: 2"
    assert texts(axis) == ["22 (2×, 9.1 % of the limit)", "11 (1×, 18 % of the limit)"]


def test_a_drawing_says_once_whose_a_colour_is():
    from matplotlib.figure import Figure

    both, alone = Figure(), Figure()
    plots._explain_colours(both, ["ours", "Kornia"])
    plots._explain_colours(alone, ["ours", "wrapped"])
    assert [text.get_text() for text in both.legends[0].get_texts()] == ["this package", "others"]
    assert len(both.legends) == 1 and not alone.legends


def test_what_is_too_noisy_is_not_drawn(axis):
    case = document({"theirs": [10.0] * 5, "ours": NOISY})["results"]["case"]
    plots.draw_case(axis, "R1", case, unit="images/s")
    assert texts(axis) == ["too noisy", "10 (1×)"]
    assert [bar.get_width() for bar in axis.patches] == [0, 10]


@pytest.mark.parametrize(
    "name", ["ours, antialiased", "wrapped JpegFolder", "import torchaug_gen", "mixing off", "pool 0.3, drawn live"]
)
def test_this_package_is_in_colour(name):
    assert plots.is_ours(name)


@pytest.mark.parametrize("name", ["Kornia in the loop", "fuse-augmentations", "import torch", "bare loader"])
def test_others_are_grey(name):
    assert not plots.is_ours(name)


def test_panels_of_one_question_have_one_scale(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    case = document()["results"]["case"]
    fast = document({"theirs": [100.0] * 5, "ours": [200.0] * 5})["results"]["case"]
    found = document() | {"results": {"reading, workers=0": case, "reading, workers=2": fast, "mixing": case}}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(found))
    plots.plot(path)
    first, second, third, _ = plt.gcf().axes
    plt.close("all")
    assert first.get_xlim() == second.get_xlim()
    assert third.get_xlim()[1] < 50


def test_a_curve_says_how_it_grows(axis):
    plots.draw_curve(axis, "cost", curve([1.0, 2.0, 4.0]))
    assert axis.get_title() == "cost: exponent 1.00 above 0 (R² 1.00)"
    flat = curve([10.0, 10.0, 10.5])
    flat["fit"]["flat"] = True
    plots.draw_curve(axis, "cost", flat)
    assert axis.get_title() == "cost: flat within 5 %"
    wild = curve([10.0, 40.0, 15.0])
    wild["fit"]["r_squared"] = 0.3
    plots.draw_curve(axis, "cost", wild)
    assert axis.get_title() == "cost: 1.5 × from end to end, by no clear law (R² 0.30)"


def test_the_tables_are_those_of_the_result_files():
    differ = tables.write(check=True)
    assert not differ, f"run python -m benchmarks tables: {differ} differ"


def test_every_table_is_in_a_readme():
    found = "".join(path.read_text() for path in tables.FILES)
    assert [name for name in tables.TABLES if f"<!-- table: {name} -->" not in found] == []


def test_an_unknown_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text("<!-- table: nothing -->\n<!-- end of table -->")
    monkeypatch.setattr(tables, "FILES", (path,))
    with pytest.raises(ValueError, match="'nothing'"):
        tables.write()


def test_tables_are_written_and_checked_by_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- table: speed -->\n<!-- end of table -->\nafter\n")
    monkeypatch.setattr(tables, "FILES", (path,))
    monkeypatch.setattr(tables, "TABLES", {"speed": tables.simple("speed-cpu")})
    found = document({"theirs": [10.0] * 5, "ours": [20.0] * 5, "noise": NOISY})
    (tmp_path / "speed-cpu.json").write_text(json.dumps(found))
    assert main(["tables", "--check"]) == 1
    assert main(["tables"]) == 0
    assert main(["tables", "--check"]) == 0
    assert path.read_text().splitlines() == [
        "before",
        "<!-- table: speed -->",
        "",
        "| case | images/s | against theirs | rounds |",
        "| --- | --- | --- | --- |",
        "| theirs | 10 | 1.00 × | 5 |",
        "| ours | 20 | 2.00 × | 5 |",
        "| noise | too noisy | too noisy | 5 |",
        "",
        "<!-- end of table -->",
        "after",
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "up to date"


def test_real_images_workers_and_intervals_are_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    figures = {"theirs": [10.0] * 6, "ours": [18.0, 19.0, 20.0, 20.0, 21.0, 22.0]}
    case = document(figures, by_workers={"ours": {"0": 1.0, "2": 3.0}})["results"]["case"]
    found = document() | {"results": {"case": case | {"real_per_second": {"ours": 14.0}}}}
    (tmp_path / "speed-cpu.json").write_text(json.dumps(found))
    assert tables.simple("speed-cpu")().splitlines()[0::3] == [
        "| case | images/s | real ones | against theirs | rounds |",
        "| ours, workers=2 | 20 | 14 | 2.00 × (1.80 to 2.20) | 6 |",
    ]
