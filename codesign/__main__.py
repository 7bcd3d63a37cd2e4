"""``python -m codesign`` is the command ``codesign``."""

import sys

from codesign.cli import main

if __name__ == "__main__":
    sys.exit(main())
