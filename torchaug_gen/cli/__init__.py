"""The command line: ``torchaug-gen``, a module per command."""

from torchaug_gen.cli.main import main

__all__ = ["main"]
