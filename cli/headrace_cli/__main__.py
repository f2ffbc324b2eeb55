"""``python -m headrace_cli``."""

import sys

from headrace_cli.main import main

sys.exit(main())
