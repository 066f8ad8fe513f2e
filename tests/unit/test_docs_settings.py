"""The settings that the guides show are ones that jipflow takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jipflow.settings.clinical import CsvMap, OmopMap
from jipflow.settings.complete import complete_types
from jipflow.settings.hub import Hub
from jipflow.settings.protocol import Protocol
from jipflow.settings.rehearsal import Rehearsal
from jipflow.settings.resources import PROTOCOLS
from jipflow.settings.schema import load
from jipflow.settings.site import Site

ROOT = Path(__file__).resolve().parents[2]
SITE = {
    "site": {"id": "north", "name": "North"},
    "sources": [{"name": "pacs", "kind": "dicomweb", "url": "https://pacs.local/dicom-web"}],
}
ELSEWHERE = {
    "docs/admin-guide.md: set-resources": "a profile of Snakemake; test_site_init.py has one",
    "docs/algorithms.md: mine": "test_tasks.py and test_container.py read such entries",
    "docs/burden.md: -": "a segment; test_quality.py has all its keys",
    "docs/models.md: name": "test_models.py adds a model by it",
    "docs/nnunet.md: name": "test_models.py adds a model by it",
    "docs/nnunet.md: members": "a key of an entry of models.yaml; test_nnunet.py has it",
    "docs/nnunet.md: postprocessing": "likewise",
    "docs/site-guide.md: set-resources": "a profile of Snakemake; test_resources.py has the rules'",
    "docs/site-guide.md: default-resources": "a profile of Snakemake; test_slurm.py has one",
    "docs/slurm.md: groups": "likewise",
}
"""Blocks that are no settings of a site, a protocol or a hub, and what tests them."""


def blocks() -> Iterator[tuple[str, str]]:
    """Each block of YAML in a page: the page with the block's first key, and the block."""
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            content = yaml.safe_load(match[1])
            first = next(iter(content)) if isinstance(content, dict) else "-"
            yield f"{path.relative_to(ROOT)}: {first}", match[1]


BLOCKS = list(blocks())


def taken(content: dict[str, Any]) -> None:
    """Read settings as a run would; what they name, such as models, need not be there."""
    complete_types()
    keys = content.keys()
    if "roster" in keys:
        text = yaml.safe_dump(content, allow_unicode=True).replace(
            "ed25519:…", "ed25519:" + "0" * 64
        )
        load(Hub, yaml.safe_load(text), "hub")
    elif keys <= Site.model_fields.keys():
        for source in content.get("sources", SITE["sources"]):
            load(Site, {**SITE, **content, "sources": [source]}, "site")
    elif "sites" in keys:
        for site in load(Rehearsal, content, "rehearsal.yaml").sites.values():
            taken(site)
    elif "variables" in keys:
        load(CsvMap if "patient" in keys else OmopMap, content, "clinical.yaml")
    elif keys <= {"parallel", "bytes_per_second", "hours"}:
        taken({"sources": [{**SITE["sources"][0], **content}]})  # type: ignore[dict-item]
    else:
        assert keys <= Protocol.model_fields.keys(), keys
        demo = yaml.safe_load((PROTOCOLS / "demo.yaml").read_text())
        roles = ("CT", "PT", "T1", "T2", "FLAIR", "MR")
        demo["cohort"]["case"]["roles"] = {role: {"where": "Modality = 'CT'"} for role in roles}
        if "segmentations" in keys and "radiomics" not in keys:
            demo |= {"radiomics": [], "analyses": []}
        if "radiomics" in keys and "segmentations" in keys:
            demo["analyses"] = []
        load(Protocol, {**demo, **content}, "protocol")


@pytest.mark.parametrize(("name", "text"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_settings_of_a_guide_are_taken(name: str, text: str) -> None:
    if name not in ELSEWHERE:
        taken(yaml.safe_load(text))


def test_what_is_tested_elsewhere_is_still_shown() -> None:
    assert set(ELSEWHERE) <= {name for name, _ in BLOCKS}
