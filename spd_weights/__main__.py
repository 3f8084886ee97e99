"""`python -m spd_weights`, the same as `spd-weights`."""

import sys

from spd_weights.cli import main

sys.exit(main())
