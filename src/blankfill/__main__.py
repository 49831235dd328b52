"""`python -m blankfill` is the `blankfill` command."""

import sys

from blankfill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
