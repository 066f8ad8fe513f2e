"""The reference pages of the documentation and the JSON Schemas, written from what settings are.

Resources and reason codes have pages too.

``python -m jipflow.cli.reference`` rewrites them; a test fails when one is out of date.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from jipflow.absences import OF_CLINICAL, OF_FEATURES
from jipflow.analyses.contract import kinds
from jipflow.analyses.forms import CountedCell, KeyedCell, StatedCell
from jipflow.cli.keys import keys_of, sections, table
from jipflow.columns import COLUMNS
from jipflow.files import atomic_path
from jipflow.models.tasks import read_tasks
from jipflow.reasons import Decision, Flag, Gap, Reason
from jipflow.settings.complete import complete_types
from jipflow.settings.hub import Hub
from jipflow.settings.json_schema import json_schema
from jipflow.settings.part import Part
from jipflow.settings.protocol import Protocol
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.registry import Registry
from jipflow.settings.resources import RESOURCES, ROOT, SCHEMAS, read_yaml
from jipflow.settings.site import Site

DOCS = ROOT / "docs"

GENERATED = (
    "<!-- Written by `python -m jipflow.cli.reference`; change its sources, not this file. -->"
)

SITE_INTRO = """\
`site.yaml` says where the images are and how a run behaves at this site. Only the keys below are \
known; a wrong one stops the run before any job starts. `jipflow config show --configfile \
my-site.yaml --protocol ID` checks a file and prints it with every default.

Four more keys choose what is run. They may stand in the file or after `--config`:

| key | type | default | meaning |
| --- | --- | --- | --- |
| `protocol` | text | required | An id under `config/protocols/` or the path of a YAML file. |
| `results` | text | `results` | Folder for the results. |
| `case` | text | optional | Pseudonyms of cases, with commas between them: \
[a first try](repair.md#a-first-try-on-a-few-cases) on these alone; without it on all. |
| `shards` | text | optional | Numbers of shards, likewise. |

Paths are relative to the folder that `snakemake` is started in."""

PROTOCOL_INTRO = """\
A protocol says what is computed. It is the same file at every site and at the hub; its hash is in \
every release. Only the keys below are known; a wrong one stops the run before any job starts. \
[config/protocols/demo.yaml](../config/protocols/demo.yaml) uses most of them."""

RADIOMICS_INTRO = """\
A file in [workflow/resources/radiomics](../workflow/resources/radiomics) says how regions are \
measured; a protocol names it under `radiomics[].settings`. `imageType`, `featureClass` and \
`setting` are those of a parameter file of pyradiomics; `processing` is what is done before. What \
the values mean and where they differ from pyradiomics' is in [radiomics.md](radiomics.md)."""

MODELS_INTRO = """\
`config/models.yaml` names the models that protocols may use. Only the keys below are known. How \
to add, fetch, verify and carry models is in [models.md](models.md)."""

ANALYSES_INTRO = """\
The kinds of analysis that a protocol may ask for under `analyses`; their keys there are in \
[protocol-reference.md](protocol-reference.md#analyses). A cell that leaves a site has `role`, \
`segmentation`, `segment`, `feature`, the name of the `group` of patients (empty for all), their \
number `n`, and what its kind adds; nothing else can leave. The rules \
stand beside `min_patients` and `difference`, which hold for every kind; \
[release.md](release.md#the-rules-of-the-gate) explains the gate, and [analyses.md](analyses.md) \
how to add a kind."""

REASONS_INTRO = """\
An outcome that is not `ok` has one of these codes, and a message that names the file, the series \
or the segment. So has a feature without a value, in `features/failures.parquet`. The codes are \
stable. What to do about them is in the [site guide](site-guide.md#when-cases-fail)."""


ABSENCES_INTRO = """\
What may leave a site, as numbers of patients: an analysis of the kind `missing` puts the codes \
above together. Of a clinical variable:"""

FLAGS_INTRO = """\
A segment that is not what the protocol expects (`expect`) is made and measured all the same. Its \
outcome at the stage `segment` has `<segment>:<flag>`, and the report shows what was found beside \
what was expected."""

DECISIONS_INTRO = """\
An outcome that is `ok` has a code for each decision that its image needed, and its message says \
on what ground it was taken. The report counts them. Those on SUV are explained in \
[suv.md](suv.md)."""


def pages() -> dict[str, str]:
    """Return the content of each generated page by its file name."""
    complete_types()
    return {
        "site-reference.md": _page("Keys of site.yaml", SITE_INTRO, *sections(Site)),
        "protocol-reference.md": _page(
            "Keys of a protocol",
            PROTOCOL_INTRO,
            *sections(Protocol),
            *_resources(),
        ),
        "radiomics-reference.md": _page(
            "Radiomics settings and features",
            RADIOMICS_INTRO,
            *sections(Radiomics),
            *_features(),
        ),
        "models-reference.md": _page(
            "Keys of models.yaml and TotalSegmentator's tasks",
            MODELS_INTRO,
            *sections(Registry),
            *_tasks(),
        ),
        "analyses-reference.md": _page("Kinds of analysis", ANALYSES_INTRO, *_analyses()),
        "reasons.md": _page(
            "Reason codes",
            REASONS_INTRO,
            table(("code", "meaning"), ((f"`{r.value}`", f"{r.meaning}.") for r in Reason)),
            "## Clinical variables without a value",
            "Why a clinical variable of a case has no value, in `clinical/missing.parquet`. What "
            "to do about them is in [clinical data](clinical.md#when-values-are-missing).",
            table(("code", "meaning"), ((f"`{g.value}`", f"{g.meaning}.") for g in Gap)),
            "## Why patients have no value",
            ABSENCES_INTRO,
            table(("reason", "meaning"), ((f"`{a.value}`", f"{a.meaning}.") for a in OF_CLINICAL)),
            "Of a feature:",
            table(("reason", "meaning"), ((f"`{a.value}`", f"{a.meaning}.") for a in OF_FEATURES)),
            "## Flags of segments",
            FLAGS_INTRO,
            table(("flag", "meaning"), ((f"`{f.value}`", f"{f.meaning}.") for f in Flag)),
            "## Decisions on images",
            DECISIONS_INTRO,
            table(("decision", "meaning"), ((f"`{d.value}`", f"{d.meaning}.") for d in Decision)),
        ),
    }


def schemas() -> dict[str, str]:
    """Return the content of each JSON Schema of settings by its file name."""
    complete_types()
    kinds: dict[str, type[Part]] = {
        "site": Site,
        "protocol": Protocol,
        "hub": Hub,
        "radiomics": Radiomics,
        "models": Registry,
    }
    return {
        f"{name}.schema.json": json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"
        for name, kind in kinds.items()
    }


def write(docs: Path = DOCS, schema_folder: Path = SCHEMAS) -> None:
    """Write every page and every schema into its folder."""
    for folder, texts in ((docs, pages()), (schema_folder, schemas())):
        for name, text in texts.items():
            with atomic_path(folder / name) as partial:
                partial.write_text(text, encoding="utf-8")


def _resources() -> Iterator[str]:
    """Yield the sections on the names that a protocol may use."""
    yield "## Columns of the series catalog"
    yield (
        "For `cohort.where` and the roles; [what an expression may "
        "hold](user-guide.md#the-cohorts-filter). Each is the DICOM attribute of that name in "
        "the series' first file, but for `PixelSpacingRow` and `PixelSpacingColumn` (the two "
        "values of Pixel Spacing), `NumberOfInstances` (the series' distinct instances) and "
        "`Source` (the name of the site's source). A text that is absent is empty, a number "
        "that is absent is NULL; the values of a multi-valued text are joined by `\\`."
    )
    yield table(("column", "type"), ((f"`{name}`", kind) for name, kind in COLUMNS.items()))
    yield "## Terms"
    yield "For `term`; from [terms.yaml](../workflow/resources/terms.yaml)."
    yield table(
        ("term", "category", "type", "laterality"),
        (
            (f"`{name}`", _code(term["category"]), _site(term), term.get("laterality", ""))
            for name, term in read_yaml(RESOURCES / "terms.yaml").items()
        ),
    )
    yield "## Radiomics settings"
    yield (
        "For `radiomics[].settings`: files in [workflow/resources/radiomics]"
        "(../workflow/resources/radiomics), whose keys are in "
        "[radiomics-reference.md](radiomics-reference.md)."
    )
    yield table(
        ("name", "for"),
        (
            (f"`{path.stem}`", path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
            for path in sorted((RESOURCES / "radiomics").glob("*.yaml"))
        ),
    )


def _tasks() -> Iterator[str]:
    """Yield the table of TotalSegmentator's tasks."""
    yield "## TotalSegmentator's tasks"
    yield (
        "For `task` and `mode`; from [totalsegmentator.yaml]"
        "(../workflow/resources/totalsegmentator.yaml), which lists the classes. *With a term* "
        "says how many classes have one; a protocol names a term of its own for the others. "
        "*Fetch* are the names for `totalseg_download_weights -t` in each mode, with those of the "
        "models that find the region to crop to."
    )
    yield table(
        ("task", "images", "licence", "classes", "with a term", "fetch"),
        (
            (
                f"`{task.name}`",
                task.modality,
                "needs a number" if task.needs_licence else "open",
                str(len(task.labels)),
                str(sum(term is not None for term in task.terms.values())),
                "; ".join(
                    f"{mode}: {', '.join(f'`{name}`' for name in weights.download)}"
                    for mode, weights in task.modes.items()
                ),
            )
            for task in read_tasks().values()
        ),
    )


def _analyses() -> Iterator[str]:
    """Yield a section for each kind of analysis: what it is, what leaves, its rules."""
    for kind, analysis in kinds().items():
        yield f"## `{kind}`"
        yield inspect.cleandoc(import_module(analysis.__module__).__doc__ or "").replace("``", "`")
        for cell in get_args(analysis.cell) or [analysis.cell]:
            yield "What a cell adds that leaves:"
            yield _added(cell, CountedCell)
        if analysis.stated:
            (stated,) = get_args(analysis.stated.model_fields["cells"].annotation)
            yield "What the hub states of a cell before a later round:"
            yield _added(stated, StatedCell)
        if analysis.rules:
            yield "Its own rules:"
            yield table(
                ("rule", "meaning"), ((f"`{rule.code}`", rule.meaning) for rule in analysis.rules)
            )


def _added(cell: type[KeyedCell], base: type[KeyedCell]) -> str:
    """Return the table of the keys that a kind's cell has beside those of all kinds."""
    shared = {key.path for key in keys_of(base)}
    return table(
        ("key", "type", "meaning"),
        (
            (f"`{key.path}`", key.kind, key.meaning)
            for key in keys_of(cell)
            if key.path not in shared
        ),
    )


def _code(code: list[str]) -> str:
    value, scheme, meaning = code
    return f"{meaning} ({value}, {scheme})"


def _site(term: Mapping[str, Any]) -> str:
    """Return a term's type, and the region that it lies in."""
    region = f" in {_code(term['region'])}" if "region" in term else ""
    return _code(term["type"]) + region


def _features() -> Iterator[str]:
    """Yield the table of features with their codes."""
    yield "## Features"
    yield (
        "The column of a feature is `<image>_<class>_<feature>`, where the image is `original` or "
        "a filter's name. The code is that of the Image Biomarker Standardisation Initiative where "
        "the feature is that concept by definition; a DICOM-SR has it too. The tag is IBSI's name "
        "in its tables of reference values."
    )
    yield table(
        ("class", "feature", "IBSI code", "IBSI tag", "meaning", "unit"),
        (
            _feature_row(group, name, entry)
            for group, entries in read_yaml(RESOURCES / "ibsi_codes.yaml")["features"].items()
            for name, entry in entries.items()
        ),
    )


def _feature_row(group: str, name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    code, meaning = entry.get("code") or ("", entry["own"][1])
    tags = entry.get("tag", [])
    tags = [tags] if isinstance(tags, str) else tags
    unit = "" if entry["unit"] == "1" else entry["unit"]
    return group, f"`{name}`", code, ", ".join(f"`{tag}`" for tag in tags), meaning, unit


def _page(title: str, *blocks: str) -> str:
    return "\n\n".join((f"# {title}", GENERATED, *blocks)) + "\n"


if __name__ == "__main__":
    write()
