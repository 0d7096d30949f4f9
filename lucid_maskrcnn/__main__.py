"""``python -m lucid_maskrcnn``: the command line, where ``lucid-maskrcnn`` is not on the path."""

import sys

from lucid_maskrcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
