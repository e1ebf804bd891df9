"""`python -m varmini`: the same as the `varmini` command."""

import sys

from .cli.main import main

sys.exit(main())
