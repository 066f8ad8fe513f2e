"""Three sites and a hub in two rounds of an analysis whose file lies in a folder of its own."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import jipflow.analyses
from federation_world import hub_settings, protocol, site
from jipflow.exchange.message import checked
from jipflow.exchange.refusals import Refused
from jipflow.files import write_json
from jipflow.hub.check import Asked, check_contents
from jipflow.hub.decisions import Accepted
from jipflow.hub.merge import advance, merge
from jipflow.release.contents import ReleaseError, formats
from jipflow.settings.resources import ConfigError

DISTANCES = {"id": "apart", "kind": "distances", "variables": ["CT.volume_ml"]}
EDITS = {
    "round": lambda state: state.update(round=3),
    "protocol": lambda state: state["protocol"].update(sha256="0" * 64),
    "analysis": lambda state: state["analyses"][0].update(id="volumes"),
    "cell": lambda state: state["analyses"][0]["cells"][0].update(feature="voxels"),
    "mean": lambda state: state["analyses"][0]["cells"][0].update(mean=-1.0),
}


def run(folder: Path) -> None:
    """Write the results of both rounds, the state between them, and what is refused of it."""
    content = protocol(analyses=[*protocol()["analyses"], DISTANCES])
    sites = [site(folder, f"site{i}", 12 + i, seed=i, content=content) for i in range(3)]
    for one in sites:
        one.write()
    settings = hub_settings(sites, folder / "inbox", content)
    first = [_accepted(one, settings) for one in sites]
    state = advance(accepted=first, settings=settings)
    assert state == advance(accepted=first[::-1], settings=settings)
    stated = checked(formats().state, state, "state.json")
    second = [_accepted(one, settings, 2, stated) for one in sites]
    written = {
        "first": merge(accepted=first, settings=settings),
        "state": state,
        "second": merge(accepted=second, settings=settings, round_=2, state=stated),
        "last": advance(accepted=second, settings=settings, round_=2, state=stated),
        "of_two": advance(accepted=first[:2], settings=settings),
        "merged_of_two": merge(accepted=first[:2], settings=settings),
        "sent": second[0].aggregates.plain(),
        "record": second[0].disclosure.plain(),
        "refused": {name: _reason(sites[0], state, edit) for name, edit in EDITS.items()},
        "early": _early(sites[0], stated),
        "unasked": _unasked(first[0], second[0], settings, stated),
        "malformed": _malformed(state),
    }
    for name, found in written.items():
        write_json(folder / f"{name}.json", found)


def _accepted(one, settings, round_=1, state=None):
    """Return a site's release of a round as the hub has it, which checks it."""
    one.build(round_=round_, state=state)
    models = formats()
    aggregates, disclosure = (
        model.model_validate(json.loads((one.release / name).read_text()))
        for model, name in (
            (models.aggregates, "aggregates.json"),
            (models.disclosure, "disclosure.json"),
        )
    )
    check_contents(aggregates, disclosure, Asked.by(settings.protocol, round_, state))
    return Accepted("x.zip", "0" * 64, one.name, 1, "", [], "", "1.0.0", aggregates, disclosure)


def _reason(one, state, edit) -> str:
    """Return why a site refuses what a hub says."""
    changed = copy.deepcopy(state)
    edit(changed)
    try:
        one.build(round_=2, state=checked(formats().state, changed, "state.json"))
    except ReleaseError as error:
        return str(error)
    return "accepted"


def _early(one, stated) -> list[str]:
    """Return why a site refuses a state before the first round, and a later round without one."""
    found = []
    for round_, state in ((1, stated.model_copy(update={"round": 1})), (2, None)):
        try:
            one.build(round_=round_, state=state)
        except ReleaseError as error:
            found.append(str(error))
    return found


def _unasked(first, second, settings, stated) -> list[str]:
    """Return why the hub refuses what a round did not ask for."""
    asked = Asked.by(settings.protocol, 2, stated)
    fewer = replace(asked, stated=stated.model_copy(update={"analyses": []}))
    found = []
    for message, limits in ((first, asked), (second, fewer)):
        try:
            check_contents(message.aggregates, message.disclosure, limits)
        except Refused as refused:
            found.append(str(refused.refusal))
    return found


def _malformed(state) -> list[str]:
    """Return what is stated of states that no model has."""
    found = []
    for edit in (
        lambda cells: cells[0].update(mean=float("inf")),
        lambda cells: cells[0].update(n=12),
        lambda cells: cells.append(cells[0]),
    ):
        changed = copy.deepcopy(state)
        edit(changed["analyses"][0]["cells"])
        try:
            checked(formats().state, changed, "state.json")
        except ConfigError as error:
            found.append(str(error))
    return found


if __name__ == "__main__":
    jipflow.analyses.__path__.append(str(Path(sys.argv[1]) / "analyses"))
    run(Path(sys.argv[1]))
