"""``python -m precrop``: the command line."""

import sys

from precrop.cli.app import main

sys.exit(main())
