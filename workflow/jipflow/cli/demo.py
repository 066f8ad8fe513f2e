"""The demonstration: three synthetic sites and the hub, each run as a real one would be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from jipflow.exchange.keys import load_or_create_key, public_text
from jipflow.files import atomic_path, read_json
from jipflow.hub.rounds import hub_thread
from jipflow.hub.settings import load_hub_settings
from jipflow.phantom.cohort import SERIES_DEFECTS, write_site
from jipflow.reasons import StageError
from jipflow.release.approval import approve, read_approvals
from jipflow.settings.resources import ROOT

SITES = ("north", "south", "west")
PROTOCOL = "demo"
SEED = 2026
ROUNDS, UNTIL = 4, "2099-12-31"
"""What the persons of the demonstration approve: the release and what follows from it."""
STEPS = 2 * len(SITES) + 3


def run_demo(*, out: Path, patients: int, cores: int | None) -> None:
    """Run the demonstration; what an earlier run made is used again.

    Args:
        out: folder for everything: the sites' DICOM, their results, the hub.
        patients: sound patients at each site; each has defective ones on top.
        cores: cores to use; all by default.

    Raises:
        StageError: a run failed; the message names its log.
    """
    out = out.absolute()
    started = time.monotonic()
    step = 0
    for site in SITES:
        step += 1
        defective = f"{len(SERIES_DEFECTS)} with a defective series"
        _say(step, f"site {site}: {patients} sound synthetic patients and {defective}")
        _make_site(out, site, patients)
    hub = ["hub", "--configfile", str(_write_hub(out))]
    step += 1
    _say(step, "hub: open the first round")
    _snakemake(out, "hub", cores, *hub)
    for site in SITES:
        step += 1
        _say(step, f"site {site}: from DICOM to a release")
        _release(out, site, cores)
    step += 1
    _say(step, "hub: verify, merge, report")
    _snakemake(out, "hub", cores, *hub)
    while (round_ := _round(out)) > 1 and not _is_over(out, round_):
        for site in SITES:
            _say(step, f"site {site}: round {round_}, which its person has approved with the first")
            _pack(out, site, cores)
        _say(step, f"hub: round {round_}")
        _snakemake(out, "hub", cores, *hub)
    step += 1
    _say(step, f"done in {time.monotonic() - started:.0f} s")
    print("\n".join(_summary(out)))


def _hub_results(out: Path) -> Path:
    return out / "hub" / "results" / PROTOCOL


def _round(out: Path) -> int:
    """Return the round that the hub has opened last."""
    content = yaml.safe_load(_hub_file(out).read_text(encoding="utf-8"))
    return hub_thread(load_hub_settings(content)).round


def _is_over(out: Path, round_: int) -> bool:
    """Return whether the hub has run in a round, and opened no other after it."""
    return (_hub_results(out) / "rounds" / f"r{round_:02d}" / "outlook.json").is_file()


def _say(step: int, text: str) -> None:
    print(f"[demo {step}/{STEPS}] {text}", flush=True)


def _make_site(out: Path, site: str, patients: int) -> None:
    folder = out / "sites" / site
    stamp = folder / "site.yaml"
    if stamp.is_file():
        return
    for part in ("dicom", "truth"):
        shutil.rmtree(folder / part, ignore_errors=True)
    write_site(folder, site, patients, SEED)
    _write_yaml(
        stamp,
        {
            "site": {"id": site, "name": f"{site.title()} Hospital (synthetic)"},
            "sources": [{"name": "archive", "kind": "folder", "path": str(folder / "dicom")}],
            "identity": {
                "secret_file": str(folder / "secrets" / "identity.key"),
                "signing_key_file": str(folder / "secrets" / "site.key"),
                "ledger_folder": str(folder / "secrets" / "ledger"),
            },
            "hub": {"id": "hub", "key": public_text(load_or_create_key(_hub_key(out)))},
            "exchange": {
                "inbox": str(out / "exchange" / "sites" / site),
                "outbox": str(out / "exchange" / "hub"),
            },
        },
    )


def _hub_file(out: Path) -> Path:
    return out / "hub" / "hub.yaml"


def _hub_key(out: Path) -> Path:
    return out / "hub" / "secrets" / "hub.key"


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _results(out: Path, site: str) -> Path:
    return out / "results" / site


def _site_arguments(out: Path, site: str) -> list[str]:
    return [
        "--configfile",
        str(out / "sites" / site / "site.yaml"),
        "--config",
        f"protocol={PROTOCOL}",
        f"results={_results(out, site)}",
    ]


def _snakemake(out: Path, name: str, cores: int | None, *arguments: str) -> None:
    """Run the workflow, showing its progress on one line; its output goes to a log."""
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", *arguments, "--profile", "profiles/demo"]
    command += ["--cores", str(cores)] if cores else []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    progress = ""
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            stream.write(line)
            found = re.search(r"(\d+) of (\d+) steps", line)
            if found:
                progress = f"    {found[1]} of {found[2]} jobs"
                if sys.stdout.isatty():
                    print(f"\r{progress}", end="", flush=True)
        code = process.wait()
    if progress:
        print("\r" + progress if sys.stdout.isatty() else progress, flush=True)
    if code:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-25:])
        raise StageError(f"the run of {name} failed; the end of {log}:\n{tail}")


def _release(out: Path, site: str, cores: int | None) -> None:
    """Run a site, play the person who approves its release, and pack it."""
    _snakemake(out, site, cores, *_site_arguments(out, site))
    release = _results(out, site) / PROTOCOL / "release" / "r01"
    key = out / "sites" / site / "secrets" / "approver.key"
    load_or_create_key(key)
    try:
        read_approvals(release, 1)
    except StageError:
        approve(
            release_dir=release,
            name=_approver(site),
            key_file=key,
            rounds=ROUNDS,
            until=UNTIL,
        )
    _pack(out, site, cores)


def _pack(out: Path, site: str, cores: int | None) -> None:
    """Run a site as far as the message of the round that is open, which its person approved."""
    _snakemake(out, f"{site}-bundle", cores, "bundle", *_site_arguments(out, site))


def _approver(site: str) -> str:
    return f"Data steward of {site}"


def _write_hub(out: Path) -> Path:
    """Write the hub's configuration with the public keys of the sites and their approvers."""
    roster = []
    for site in SITES:
        secrets = out / "sites" / site / "secrets"
        approver = {
            "name": _approver(site),
            "key": public_text(load_or_create_key(secrets / "approver.key")),
        }
        roster.append(
            {
                "site": site,
                "key": public_text(load_or_create_key(secrets / "site.key")),
                "approvers": [approver],
            }
        )
    (out / "exchange" / "hub").mkdir(parents=True, exist_ok=True)
    path = _hub_file(out)
    _write_yaml(
        path,
        {
            "hub": {"id": "hub", "name": "Coordinating hub (synthetic)"},
            "protocol": PROTOCOL,
            "inbox": str(out / "exchange" / "hub"),
            "outbox": str(out / "exchange" / "sites"),
            "identity": {"signing_key_file": str(_hub_key(out))},
            "results": str(out / "hub" / "results"),
            "roster": roster,
        },
    )
    return path


def _summary(out: Path) -> list[str]:
    """Say in ten lines what was done and where to look."""
    lines = [""]
    for site in SITES:
        folder = _results(out, site) / PROTOCOL
        verdict = read_json(folder / "verdict.json")
        lines.append(
            f"{site}: {verdict['cases']} cases, {verdict['ok']} ok, {verdict['failed']} with a "
            f"failed item and its reason; report {folder / 'report' / 'index.html'}"
        )
    round_folder = _hub_results(out) / "rounds" / f"r{_round(out):02d}"
    result = read_json(round_folder / "result.json")
    cells = [cell for analysis in result["analyses"] for cell in analysis["cells"]]
    liver = next(
        cell
        for cell in cells
        if cell["feature"] == "original_shape_MeshVolume"
        and cell["segment"] == "liver"
        and "mean" in cell
    )
    lines += [
        f"hub: {len(read_json(round_folder / 'accepted.json'))} releases accepted, "
        f"{len(read_json(round_folder / 'rejected.json'))} refused, {len(cells)} merged cells",
        f"for example liver volume: n={liver['n']}, mean {liver['mean'] / 1e3:.1f} mL, "
        f"SD {liver['sd'] / 1e3:.1f} mL, as from pooling the {len(liver['sites'])} sites' patients",
        "nothing but sealed releases left a site; see release/r01/disclosure.html at each",
        f"truth of the synthetic patients: {out / 'sites'}/<site>/truth/truth.json",
        "",
        f"report of the hub: {round_folder / 'report.html'}",
    ]
    return lines
