"""A command of the command line: a function, and the parser that follows from its parameters."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

from jipflow.files import local_path

Handler = Callable[..., None]

RUN_A_SITE = "snakemake --profile profiles/local --configfile my-site.yaml --config protocol=<id>"
RUN_A_HUB = "snakemake hub --profile profiles/local --configfile hub.yaml"

REPEATED = {"action": "append", "nargs": None}
"""Keywords of an option that is typed once for each of its values."""

METAVARS = {Path: "PATH", int: "N", float: "N", str: "TEXT"}


class UsageError(Exception):
    """What was typed does not go together; the message says what to type."""


@dataclass(frozen=True)
class Command:
    """A command and the function that carries it out.

    The parameters of the function are the arguments: those before ``*`` are positional, those
    after it are options, and one without a default is required. Its annotation is
    ``Annotated[type, help]``; keywords for `argparse.ArgumentParser.add_argument` may follow. The
    type is one that `argparse` calls, ``bool`` for a flag, ``Literal`` for a choice or
    ``Sequence`` for several values. An underscore at the end of a name, as in ``from_``, is not
    typed. The help of the command is the function's docstring.

    Attributes:
        name: as it is typed, such as ``release approve``.
        handler: the function.
        hint: who calls the command, if not a person; stands below its help and its errors.
    """

    name: str
    handler: Handler
    hint: str = ""

    @property
    def words(self) -> list[str]:
        """The words of the name."""
        return self.name.split()

    @property
    def summary(self) -> str:
        """What the command does, in one line."""
        return self._help().partition("\n")[0].rstrip(".")

    def parser(self) -> argparse.ArgumentParser:
        """Make the parser of what is typed after the name."""
        parser = _Parser(
            prog=f"jipflow {self.name}",
            description=self._help(),
            epilog=self.hint,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for parameter in self._parameters():
            _add_argument(parser, parameter)
        return parser

    def run(self, words: Sequence[str]) -> None:
        """Parse what is typed after the name, and call the function.

        Raises:
            SystemExit: the arguments are wrong, or help was asked for.
        """
        parser = self.parser()
        self._check_options(parser, words)
        typed = vars(parser.parse_args(words))
        positional: list[Any] = []
        for parameter in self._parameters():
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional += typed.pop(parameter.name)
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                positional.append(typed.pop(parameter.name))
        try:
            self.handler(*positional, **typed)
        except UsageError as error:
            parser.error(str(error))

    def _check_options(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        """Refuse an option that is not there; argparse would first miss the one that was meant."""
        options = [_flag(p.name) for p in self._parameters() if p.kind is p.KEYWORD_ONLY]
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in {"--", "--help", *options}:
                near = get_close_matches(flag, options, n=1)
                proposal = f"; did you mean {near[0]}?" if near else ""
                parser.error(f"there is no option {flag}{proposal}")

    def _help(self) -> str:
        return inspect.getdoc(self.handler) or ""

    def _parameters(self) -> Collection[inspect.Parameter]:
        return inspect.signature(self.handler, eval_str=True).parameters.values()


@dataclass(frozen=True)
class Audience:
    """The commands that one kind of caller needs.

    Attributes:
        title: what the caller wants, as a heading of the help.
        hint: see `Command`.
        commands: in the order in which they are declared.
    """

    title: str
    hint: str = ""
    commands: list[Command] = field(default_factory=list)

    def command(self, name: str) -> Callable[[Handler], Handler]:
        """Declare the decorated function as the command of that name."""

        def declare(handler: Handler) -> Handler:
            self.commands.append(Command(name, handler, self.hint))
            return handler

        return declare


class _Parser(argparse.ArgumentParser):
    """A parser whose errors say, too, who calls the command if not a person."""

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}\n{self.epilog}" if self.epilog else message)


def _flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def _add_argument(parser: argparse.ArgumentParser, parameter: inspect.Parameter) -> None:
    """Add the argument that a parameter of a command's function stands for."""
    assert get_origin(parameter.annotation) is Annotated, f"{parameter} needs a help text"
    kind, text, *more = get_args(parameter.annotation)
    default, required = parameter.default, parameter.default is parameter.empty
    keywords = _keywords(kind, required=required)
    for own in more:
        keywords |= own
    if parameter.kind is parameter.KEYWORD_ONLY:
        if not required and default not in (None, False, ()):
            text = f"{text} (default: {default})"
        # What is typed several times is appended to a list.
        given = list(default) if default == () and "append" in keywords.values() else default
        keywords |= {"required": True} if required else {"default": given}
        parser.add_argument(_flag(parameter.name), dest=parameter.name, help=text, **keywords)
    else:
        if parameter.kind is parameter.VAR_POSITIONAL:
            keywords["nargs"] = "*"
        parser.add_argument(parameter.name, help=text, **{**keywords, "metavar": None})


def _keywords(kind: Any, *, required: bool) -> dict[str, Any]:
    """Return the keywords of `add_argument` that follow from a type."""
    if isinstance(kind, UnionType):
        (kind,) = (other for other in get_args(kind) if other is not NoneType)
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is Sequence:
        return {**_keywords(*get_args(kind), required=True), "nargs": "+" if required else "*"}
    return {"type": _typed_path if kind is Path else kind, "metavar": METAVARS[kind]}


def _typed_path(text: str) -> Path:
    """Return a path, in which the shell has left ``~`` as it is where it stands behind ``=``."""
    try:
        return Path(local_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
