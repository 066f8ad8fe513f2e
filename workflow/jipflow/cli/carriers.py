"""What the rules of the workflow call to exchange messages over S3 and WebDAV."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from jipflow.cli.command import RUN_A_HUB, RUN_A_SITE, Audience

if TYPE_CHECKING:
    from jipflow.exchange.transport import Place, Report

AUDIENCE = Audience(
    "Called by the workflow where messages are exchanged over S3 or WebDAV",
    f"The workflow calls this when a site or a hub is run:\n  {RUN_A_SITE}\n  {RUN_A_HUB}",
)

MOST_MEMORY = 1 << 30
"""Bytes of address space beside what the process begins with, which may be the libraries of a whole
run: a list without end takes no more from the machine."""

Memory = Annotated[Path, "file that keeps what went or came before"]
Done = Annotated[Path, "what this run did, and what was left out and why"]


@AUDIENCE.command("exchange look")
def exchange_look(
    *,
    from_: Annotated[str, "address of the place: s3://bucket/prefix or davs://host/path"],
    to: Annotated[Path, "folder that the messages would come to"],
    memory: Memory,
) -> None:
    """Print the names of the messages that would be fetched, a line each."""
    from jipflow.exchange.transport import look

    place, address = _opened(from_)
    for item in look(place, address, to, memory)[0]:
        print(item.name)


@AUDIENCE.command("exchange fetch")
def exchange_fetch(
    *,
    from_: Annotated[str, "address of the place: s3://bucket/prefix or davs://host/path"],
    to: Annotated[Path, "folder that the messages come to"],
    memory: Memory,
    report: Done,
) -> None:
    """Fetch the messages that a place has and the folder has not."""
    from jipflow.exchange.transport import fetch

    _carry(fetch, from_, to, memory, report)


@AUDIENCE.command("exchange send")
def exchange_send(
    *,
    from_: Annotated[Path, "folder of the messages, or of a folder of them for each site"],
    to: Annotated[str, "address of the place: s3://bucket/prefix or davs://host/path"],
    memory: Memory,
    report: Done,
) -> None:
    """Put the messages into a place that were not put there before."""
    from jipflow.exchange.transport import send

    _carry(send, to, from_, memory, report)


class _Carrier(Protocol):
    def __call__(self, place: Place, address: str, folder: Path, memory: Path) -> Report: ...


def _carry(carry: _Carrier, address: str, folder: Path, memory: Path, report: Path) -> None:
    from jipflow.files import write_json

    done = carry(*_opened(address), folder, memory)
    for name in sorted(done.files):
        print(name)
    for name, reason in sorted(done.left_out.items()):
        print(f"left out {name}: {reason}")
    write_json(report, done.plain())


def _opened(address: str) -> tuple[Place, str]:
    """Return a place and its address, in a process whose memory has a bound."""
    import psutil

    from jipflow.exchange.places import open_place
    from jipflow.settings.addresses import parse_address
    from jipflow.settings.resources import ConfigError

    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise ConfigError(f"the address {error}.") from None
    most = psutil.Process().memory_info().vms + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    return open_place(parsed), parsed.url
