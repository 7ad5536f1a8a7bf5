"""``python -m torchaug_gen.cli``, which torchrun needs."""

import sys

from torchaug_gen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
