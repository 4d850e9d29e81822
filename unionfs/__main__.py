"""What does `python -m unionfs` run?  The same command as the console script."""

import sys

from unionfs.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
