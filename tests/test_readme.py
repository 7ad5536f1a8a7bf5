"""What the README shows runs as it stands."""

import re
import tempfile
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^## (.+?)$|^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def examples():
    heading = ""
    for title, code in BLOCKS:
        heading = title or heading
        if code:
            yield pytest.param(code, id=heading)


EXAMPLES = list(examples())


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_takes_at_most_ten_lines(code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_two_commands_are_there():
    assert "pip install -e '.[demo]' && torchaug-gen demo" in README
    assert "pip install -e '.[test]' && pytest -n 2" in README
