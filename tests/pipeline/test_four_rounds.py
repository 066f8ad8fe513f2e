"""Three sites and a hub go through four rounds, with nothing in common but a folder of messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import federation
from federation import HUB, SITES, Federation
from jipflow.exchange import message
from jipflow.exchange.envelope import opened
from jipflow.exchange.sealing import seal
from jipflow.files import read_json
from needs import unavailable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from combat_reference import combat

MEAN = "original_firstorder_Mean"
ANALYSES = [
    {"id": "describe", "kind": "summary", "variables": [f"PT.{MEAN}"]},
    {
        "id": "middle",
        "kind": "quantiles",
        "variables": [f"PT.{MEAN}"],
        "quantiles": [0.5],
        "low": 5.3,
        "high": 9.9,
        "bins": 2,
        "rounds": 4,
    },
    {"id": "scanners", "kind": "combat", "variables": ["PT.original_glcm_*"]},
]
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def party(tmp_path_factory):
    """Three sites and a hub that have nothing of each other; skips where that cannot be had."""
    try:
        subprocess.run(
            ["unshare", "--map-root-user", "--net", "--mount", "true"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        unavailable(f"this machine makes no namespaces: {error}")
    made = federation.federation(tmp_path_factory.mktemp("apart"), ANALYSES)
    made.public("west", "bea")
    made.write_hub(made.roster(west=("Ada Roe", "Bea Coe")))
    return made


def approve(party: Federation, site: str, name: str) -> None:
    release = party.results(site) / "release" / "r01"
    key = party.key(site, name.split()[0].lower())
    terms = ("--rounds", "4", "--until", "2099-01-01")
    signer = ("--name", name, "--key", str(key))
    party.jipflow(site, "release", "approve", str(release), *signer, *terms)


def forged(raw: bytes, to: str, **changes: object) -> bytes:
    """A message that a stranger has signed, sealed to whom it is for."""
    envelope = opened(raw, None, ("release", "round"))
    manifest = envelope.manifest.model_copy(update=changes)
    return seal(message.pack(manifest, STRANGER, envelope.files), to)


def refused(party: Federation, round_: int) -> dict[str, str]:
    folder = party.results(HUB) / "rounds" / f"r{round_:02d}"
    return {entry["file"]: entry["reason"] for entry in read_json(folder / "rejected.json")}


def waits_for(party: Federation, round_: int) -> list[str]:
    return read_json(party.results(HUB) / "rounds" / f"r{round_:02d}" / "outlook.json")["missing"]


def test_a_party_has_nothing_of_another(party):
    for whose in ("north", "south"):
        public = party.public(whose)
        assert party.jipflow(whose, "keys", "show", str(party.key(whose))).strip() == public
    with pytest.raises(AssertionError, match="is missing; make a key"):
        party.jipflow("north", "keys", "show", str(party.key("south")))


def test_four_rounds_with_a_late_a_lost_and_a_forged_message(party):
    assert "round 1" in party.snakemake(HUB)
    for site in SITES:
        party.snakemake(site)
        approve(party, site, "Ada Roe")
        party.snakemake(site, "bundle")
    approve(party, "west", "Bea Coe")
    party.snakemake("west", "bundle")
    inbox = party.inbox(HUB)
    (second,) = inbox.glob("*-west-r01-a2.age")
    late = second.rename(party.base / "late.age")
    (south,) = (party.results("south") / "bundles").glob("*.zip")
    (inbox / "forged.age").write_bytes(forged(south.read_bytes(), party.public(HUB), attempt=7))
    party.snakemake(HUB)
    assert refused(party, 1) == {"forged.age": "sender_signature"}

    late.rename(inbox / "late.age")
    assert "late.age: late: of round 1, open is 2" in party.snakemake(HUB)
    assert refused(party, 2) == {"forged.age": "sender_signature", "late.age": "late"}
    assert waits_for(party, 2) == list(SITES)

    (opening,) = (party.results(HUB) / "messages").glob("*/out/north/*-round-r02-*.zip")
    lost = max(party.sealed("north"), key=lambda path: path.stat().st_mtime_ns)
    lost.unlink()
    false = forged(opening.read_bytes(), party.public("north"))
    (party.inbox("north") / "false.age").write_bytes(false)
    printed = party.snakemake("north", "release")
    assert "round:     1 is open" in printed
    assert "false.age: sender_signature: hub" in printed
    party.snakemake(HUB)
    assert lost.is_file()

    for round_ in (2, 3, 4):
        for site in SITES:
            assert f"round:     {round_} is open" in party.snakemake(site, "bundle")
        party.snakemake(HUB)
        assert waits_for(party, round_) == []
    last = read_json(party.results(HUB) / "rounds" / "r04" / "outlook.json")
    assert not last["opened"]
    check_result(party)


def check_result(party: Federation) -> None:
    """What four rounds gave is what the patients of all sites give in one place."""
    result = read_json(party.results(HUB) / "rounds" / "r04" / "result.json")
    tables = [pd.read_parquet(party.results(s) / "features" / "features.parquet") for s in SITES]
    values = pd.concat(tables)[MEAN].dropna().to_numpy()
    (mean,), (middle,), harmonised = ([*a["cells"]] for a in result["analyses"])
    assert [analysis["round"] for analysis in result["analyses"]] == [1, 4, 2]
    check_harmonised(party, tables, harmonised)
    assert mean["n"] == middle["n"] == values.size
    assert mean["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert mean["variance"] == pytest.approx(values.var(ddof=1), rel=1e-12)
    (median,) = middle["quantiles"]
    pooled = np.quantile(values, 0.5, method="inverted_cdf")
    assert median["lower"] <= pooled <= median["upper"]
    assert median["lower"] <= median["estimate"] <= median["upper"]
    page = (party.results(HUB) / "rounds" / "r04" / "report.html").read_text()
    assert "Surely within" in page
    assert "<summary></summary>" not in page


def check_harmonised(
    party: Federation, tables: Sequence[pd.DataFrame], cells: Sequence[Mapping[str, Any]]
) -> None:
    """Each site has the features as ComBat on the pooled table has them, and the hub their sums."""
    names = [cell["feature"] for cell in cells]
    assert len(names) > 10
    assert {cell["reason"] for cell in cells} == {None}
    pooled = pd.concat(tables, keys=SITES).dropna(subset=names)
    expected = combat(pooled[names].to_numpy(), pooled.index.get_level_values(0).to_numpy())
    for number, site in enumerate(SITES):
        rows = pooled.index.get_level_values(0) == site
        assert [cell["by_site"][number]["site"] for cell in cells] == [site] * len(cells)
        shifts = [cell["by_site"][number]["shift"] for cell in cells]
        assert shifts == pytest.approx(expected.gamma[number], rel=1e-9)
        kept = pd.read_parquet(party.results(site) / "harmonised" / "r02" / "scanners.parquet")
        there = kept.set_index("case_id").loc[pooled.loc[site, "case_id"], names]
        assert there.to_numpy() == pytest.approx(expected.table[rows], rel=1e-9)
        assert not (party.results(site) / "harmonised" / "r01").exists()


def test_nothing_in_the_folder_between_them_can_be_read(party):
    """It holds sealed messages alone, in which no identifier of a patient is."""
    files = [path for path in party.exchange.rglob("*") if path.is_file()]
    assert len(files) > 12
    for path in files:
        assert path.suffix == ".age"
        assert path.read_bytes().startswith(b"age-encryption.org/v1\n")


def test_the_ledger_has_every_round(party):
    for site in SITES:
        folder = Path(party.folder(site), "secrets")
        where = ("--results", str(party.results(site).parent))
        secret = ("--secret", str(folder / "identity.key"))
        lines = party.jipflow(site, "ledger", "show", str(folder / "ledger"), *where, *secret)
        assert [line.split("round ")[1][0] for line in lines.splitlines()] == (
            ["1", "1", "2", "3", "4"] if site == "west" else ["1", "2", "3", "4"]
        )


def test_the_audit_trail_has_every_release_and_fits_the_ledger(party):
    for site in SITES:
        folder = Path(party.folder(site), "secrets")
        trail = folder / "audit.jsonl"
        key = party.jipflow(site, "keys", "show", str(party.key(site))).strip()
        where = ("--results", str(party.results(site).parent), "--ledger", str(folder / "ledger"))
        secret = ("--secret", str(folder / "identity.key"))
        words = party.jipflow(site, "audit", "verify", str(trail), "--key", key, *where, *secret)
        assert "The trail is whole" in words
        assert "was not looked for" not in words
        events = [json.loads(line)["entry"]["event"] for line in trail.read_text().splitlines()]
        assert events.count("release_packed") == (5 if site == "west" else 4)
