"""``python -m lucid_maskrcnn.cli``."""

import sys

from . import main

sys.exit(main())
