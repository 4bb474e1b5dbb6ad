"""``python -m precrop``: the command line."""

import sys

from precrop.cli import main

sys.exit(main())
