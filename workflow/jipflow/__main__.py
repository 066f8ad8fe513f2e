"""Where ``jipflow`` begins: its work is done by the server of a run, or in this process."""

import sys

from jipflow.forked import ask


def main() -> int:
    """Run what was typed; return the exit code, see `jipflow.cli.main`."""
    code = ask(sys.argv[1:])
    if code is not None:
        return code
    from jipflow.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
