"""`python -m varmini`: the same as the `varmini` command."""

import sys

from .cli import main

sys.exit(main())
