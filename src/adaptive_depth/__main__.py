"""`python -m adaptive_depth` is the command `adaptive-depth`, for launchers such as torchrun."""

import sys

from .cli import main

sys.exit(main())
