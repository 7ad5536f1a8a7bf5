"""The examples in docstrings run as they stand."""

import doctest
import importlib
import pkgutil

import pytest

import torchaug_gen

NAMES = [module.name for module in pkgutil.walk_packages(torchaug_gen.__path__, "torchaug_gen.")]


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
