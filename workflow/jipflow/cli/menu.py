"""All commands, and the help that lists them by audience."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from jipflow.cli import (
    carriers,
    hub,
    joined,
    modellers,
    newcomers,
    operators,
    repairs,
    rounds,
    stewards,
    training,
)
from jipflow.cli.command import RUN_A_HUB, RUN_A_SITE, Audience, Command

PEOPLE = (
    *(newcomers.AUDIENCE, operators.AUDIENCE, repairs.AUDIENCE, modellers.AUDIENCE),
    *(stewards.AUDIENCE, rounds.AUDIENCE),
)
WORKFLOW = (joined.AUDIENCE, training.AUDIENCE, hub.AUDIENCE, carriers.AUDIENCE)
COMMANDS = {
    command.name: command for audience in (*PEOPLE, *WORKFLOW) for command in audience.commands
}
STAGES = "stages"
"""What is typed to list the commands of the workflow."""

GROUPS = {STAGES, *(c.words[0] for c in COMMANDS.values() if len(c.words) > 1)}
"""First words of commands that have two, whose help lists these."""

HELP = {"-h", "--help", "help"}


def find(words: Sequence[str]) -> Command | None:
    """Return the command that the words begin with, if they do."""
    return COMMANDS.get(" ".join(words[:2])) or COMMANDS.get(" ".join(words[:1]))


def is_job(command: Command) -> bool:
    """Return whether a command is called by the workflow at a site."""
    jobs = (joined.AUDIENCE, training.AUDIENCE)
    return any(command is each for audience in jobs for each in audience.commands)


def answer(words: Sequence[str]) -> int:
    """Answer what is no command: a request for help or for the version, or a mistake.

    Returns:
        The exit code: 0, or 2 after a mistake.
    """
    group = words[0] if words and words[0] in GROUPS else ""
    rest = words[1:] if group else words
    if (rest and rest[0] in HELP) or (group == STAGES and not rest):
        print(help_page(group))
        return 0
    if rest and rest[0] == "--version":
        from jipflow.version import full_version

        print(f"jipflow {full_version()}")
        return 0
    print(_unknown(group, rest) if rest else help_page(group), file=sys.stderr)
    return 2


def help_page(group: str = "") -> str:
    """Return the help: what people call; for a group, what the workflow calls of it as well.

    Args:
        group: the first word of the commands that are listed, or `STAGES`; empty for all.
    """
    lines = [f"usage: jipflow {group}{' ' * bool(group)}COMMAND ..."]
    if group == STAGES:
        lines = ["usage: jipflow COMMAND ...", *_sections("", WORKFLOW)]
    elif group:
        lines += _sections(group, (*PEOPLE, *WORKFLOW))
    else:
        lines += ["", "Federated medical imaging: from DICOM to disclosure-controlled radiomics."]
        lines += _sections("", PEOPLE)
    lines += ["", "A site and a hub are run by snakemake, which calls the other commands:"]
    lines += [f"  {RUN_A_SITE}", f"  {RUN_A_HUB}", ""]
    lines += [f"jipflow COMMAND --help explains a command; jipflow {STAGES} lists the other ones."]
    return "\n".join(lines)


def _sections(group: str, audiences: Sequence[Audience]) -> Iterator[str]:
    """Yield the lines of each audience's commands, where it has any."""
    width = max(map(len, COMMANDS))
    for audience in audiences:
        commands = [c for c in audience.commands if group in {"", c.words[0]}]
        if commands:
            yield from ["", f"{audience.title}:"]
            yield from (f"  {c.name:{width}}  {c.summary}" for c in commands)


def _unknown(group: str, rest: Sequence[str]) -> str:
    """Return what to say of a word that is no command, or none of its group."""
    spellings: dict[str, list[str]] = {} if group else {name: [name] for name in GROUPS}
    for name, command in COMMANDS.items():
        if group in {"", command.words[0]}:
            for spelling in {command.words[-1], *([] if group else [name])}:
                spellings.setdefault(spelling, []).append(name)
    typed = [rest[0]] if group else [" ".join(rest[:2]), rest[0]]
    near = [match for word in typed for match in get_close_matches(word, spellings, n=1)]
    proposal = f"; did you mean {' or '.join(map(repr, spellings[near[0]]))}?" if near else "."
    return (
        f"jipflow: there is no command {f'{group} {rest[0]}'.strip()!r}{proposal}\n"
        f"{f'jipflow {group}'.strip()} --help lists them. A site is run by:\n  {RUN_A_SITE}"
    )
