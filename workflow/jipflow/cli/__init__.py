"""The command line: what every rule of the workflow calls, and what a person calls."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from jipflow.cli.menu import answer, find, is_job


def main(argv: Sequence[str] | None = None, begin: Callable[[], object] = lambda: None) -> int:
    """Run one command.

    Args:
        argv: what is typed after ``jipflow``; that of this process by default.
        begin: called before a command does its work, when what is printed is redacted already.

    Returns:
        0; 1 after an error, 2 where there is no such command, 130 after Ctrl-C. A message on
        standard error says how to fix it.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    command = find(words)
    if command is None:
        return answer(words)
    from jipflow.cli.attempts import found_before, remember
    from jipflow.cli.redacted import redact, redacted_output
    from jipflow.settings.resources import check_repository
    from jipflow.workers import silence_libraries

    if message := found_before(words):
        print(f"jipflow: {message}", file=sys.stderr)
        return 1
    silence_libraries()
    # Only jobs of a site work on what names patients, and print into logs.
    with redacted_output(words) if is_job(command) else nullcontext():
        try:
            check_repository()
            begin()
            command.run(words[len(command.words) :])
        except KeyboardInterrupt:
            print("jipflow: interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            remember(words, error, redact(str(error)))
            print(f"jipflow: {_message(error)}", file=sys.stderr)
            return 1
    return 0


def _message(error: Exception) -> str:
    """Return what to say of an error; the traceback of one that nobody foresaw goes before."""
    from jipflow.place import place_error, sentence
    from jipflow.reasons import StageError
    from jipflow.settings.resources import ConfigError

    if isinstance(error, StageError | ConfigError):
        return str(error)
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        # A person's mistake as a rule.
        return f"{error.filename}: {error.strerror}." if error.filename else str(error)
    if cause := place_error(error):
        return sentence(cause)
    traceback.print_exception(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (the lines above are for the makers of jipflow)"
