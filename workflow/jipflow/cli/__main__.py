"""Runs the command line as ``python -m jipflow.cli``."""

import sys

from jipflow.cli import main

sys.exit(main())
