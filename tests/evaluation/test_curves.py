import json
import math

import pytest

from torchaug_gen.evaluation.charts import HEIGHT, WIDTH, line_chart
from torchaug_gen.evaluation.curves import read_curves


def written(folder, rows):
    (folder / "history.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_curves(folder)


def test_a_folder_without_history_has_none(tmp_path):
    assert read_curves(tmp_path) is None


def test_many_steps_become_few_points_with_their_means(tmp_path):
    found = written(tmp_path, [{"step": i, "seconds": i / 2, "loss": float(i)} for i in range(1600)])
    assert (found.steps, found.seconds, len(found.losses["loss"])) == (1600, 799.5, 160)
    assert found.losses["loss"][0] == (4.5, 4.5)
    assert found.last["loss"] == pytest.approx(1519.5)


def test_steps_taken_again_count_once_and_say_why(tmp_path):
    rows = [{"step": i, "loss": 1.0} for i in range(10)]
    rows += [{"event": "rollback", "to": 5, "reason": "diverged"}, *[{"step": i, "loss": 3.0} for i in range(5, 10)]]
    found = written(tmp_path, rows)
    assert found.rollbacks == ((5, "diverged"),)
    assert [y for _, y in found.losses["loss"]] == [1.0] * 5 + [3.0] * 5


def test_a_loss_that_ended_as_nan_has_no_last_value(tmp_path):
    found = written(tmp_path, ['{"step": 0, "loss": 1.0}', '{"step": 1, "loss": NaN}'])
    assert found.last == {"loss": None} and found.losses["loss"] == ((0.0, 1.0),)


@pytest.mark.parametrize("line", ["no json", "[1]", '{"step": -1}', '{"step": "x"}', "[" * 100_000])
def test_lines_that_are_no_history_are_named(tmp_path, line):
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2, must"):
        written(tmp_path, ['{"step": 0}', line])


def test_lines_stay_within_their_frame():
    chart = line_chart(
        "loss", {"a": [(0, 1.0), (1, math.nan), (2, 3.0)], "b": [(1, -5.0)]}, x_label="step", marks=[1, 9]
    )
    points = [tuple(map(float, point.split(","))) for _, line in chart.lines for point in line.split()]
    assert len(points) == 3 and all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert len(chart.marks) == 1
    assert points[1][1] < points[0][1] < points[2][1], "larger values are further up"


def test_ticks_are_short_and_enough_to_read_by():
    chart = line_chart("loss", {"a": [(0, -25000.0), (250, 15000.0)]}, x_label="step")
    assert [label for _, label in chart.y_ticks] == ["−20k", "−10k", "0", "10k"]
    assert [label for _, label in chart.x_ticks] == ["0", "50", "100", "150", "200", "250"]


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-300, 1e300])
def test_a_flat_line_has_a_frame(value):
    chart = line_chart("loss", {"a": [(0, value), (1, value)]}, x_label="step")
    assert len(chart.lines[0][1].split()) == 2 and "nan" not in str(chart)


def test_nothing_finite_is_no_chart():
    assert line_chart("loss", {"a": [(0, math.nan)], "b": []}, x_label="step") is None
