"""A rehearsal: a protocol run from end to end on one machine, with folders in the place of sites.

All data are on the machine of whoever rehearses, so that nothing is protected from that person:
public or synthetic patients belong here, or the parts of one's own.
"""

from __future__ import annotations

from pathlib import Path

from jipflow.cli.federation import Federation, Progress
from jipflow.exchange.roster import FEWEST_SITES
from jipflow.settings.reading import protocol_path, read_protocol
from jipflow.settings.rehearsal import read_rehearsal
from jipflow.settings.resources import ConfigError


def rehearse(*, file: Path, out: Path, cores: int | None) -> None:
    """Run a federation of folders; what an earlier run made is used again.

    Args:
        file: what it is of, see `jipflow.settings.rehearsal`.
        out: folder for everything: sites, their results, the hub.
        cores: cores to use; all by default.

    Raises:
        ConfigError: the file, the protocol or a site's entry is wrong.
        StageError: a run failed; the message names its log.
    """
    rehearsal = read_rehearsal(file)
    if len(rehearsal.sites) < FEWEST_SITES:
        raise ConfigError(f"{file}: sites: a federation needs {FEWEST_SITES} at least; add some.")
    protocol = protocol_path(rehearsal.protocol)
    protocol_id = read_protocol(protocol)[0].protocol.id
    sites = {
        site: {"site": {"id": site, "name": f"{site} (rehearsal)"}, **content}
        for site, content in rehearsal.sites.items()
    }
    progress = Progress("rehearsal", len(sites) + Federation.STEPS + 1)
    federation = Federation(
        out.absolute(),
        str(protocol.absolute()),
        protocol_id,
        sites,
        rehearsal.hub,
        progress,
        cores,
    )
    federation.run()
    progress.end()
    print("\n".join(["", *federation.summary(), ""]))
    print(f"report of the hub: {federation.round_folder / 'report.html'}")
