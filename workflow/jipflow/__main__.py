"""Runs the command line as ``python -m jipflow``."""

import sys

from jipflow.cli import main

sys.exit(main())
