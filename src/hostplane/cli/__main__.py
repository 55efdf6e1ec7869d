"""`python -m hostplane.cli`: the command line where no entry point is installed."""

import sys

from hostplane.cli.main import main

sys.exit(main())
