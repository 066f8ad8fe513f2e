"""The command line: what every rule of the workflow calls, and what a person calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jipflow.cli.menu import answer, find


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what is typed after ``jipflow``; that of this process by default.

    Returns:
        0; 1 after an error, 2 where there is no such command, 130 after Ctrl-C. A message on
        standard error says how to fix it.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    command = find(words)
    if command is None:
        return answer(words)
    from jipflow.reasons import StageError
    from jipflow.settings.resources import ConfigError, check_repository
    from jipflow.workers import silence_libraries

    silence_libraries()
    try:
        check_repository()
        command.run(words[len(command.words) :])
    except KeyboardInterrupt:
        print("jipflow: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, StageError | ConfigError):
            message = str(error)
        elif isinstance(error, OSError) and error.filename is not None:
            message = f"{error.filename}: {error.strerror}."
        else:
            raise
        print(f"jipflow: {message}", file=sys.stderr)
        return 1
    return 0
