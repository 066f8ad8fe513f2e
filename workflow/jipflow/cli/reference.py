"""The reference pages of the documentation, written from schemas, resources and reason codes.

``python -m jipflow.cli.reference`` rewrites them; a test fails when one is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jipflow.columns import COLUMNS
from jipflow.files import atomic_path
from jipflow.models.tasks import read_tasks
from jipflow.reasons import Flag, Reason
from jipflow.settings.config import RESOURCES, ROOT, SCHEMAS, read_yaml

DOCS = ROOT / "docs"

Schema = Mapping[str, Any]

GENERATED = (
    "<!-- Written by `python -m jipflow.cli.reference`; change its sources, not this file. -->"
)

SITE_INTRO = """\
`site.yaml` says where the images are and how a run behaves at this site. Only the keys below are \
known; a wrong one stops the run before any job starts. `jipflow config show --configfile \
my-site.yaml --protocol ID` checks a file and prints it with every default.

Two more keys choose what is run. They may stand in the file or after `--config`:

| key | type | default | meaning |
| --- | --- | --- | --- |
| `protocol` | text | required | An id under `config/protocols/` or the path of a YAML file. |
| `results` | text | `results` | Folder for the results. |

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

REASONS_INTRO = """\
An outcome that is not `ok` has one of these codes, and a message that names the file, the series \
or the segment. So has a feature without a value, in `features/failures.parquet`. The codes are \
stable. What to do about them is in the [site guide](site-guide.md#when-cases-fail)."""


FLAGS_INTRO = """\
A segment that is not what the protocol expects (`expect`) is made and measured all the same. Its \
outcome at the stage `segment` has `<segment>:<flag>`, and the report shows what was found beside \
what was expected."""


@dataclass(frozen=True)
class Key:
    """One row of a table of keys.

    Attributes:
        path: where the key stands, such as ``sources[].path``.
        kind: its type and limits, in Markdown.
        default: the default in Markdown, or whether it is required.
        meaning: the schema's description, which may be empty.
    """

    path: str
    kind: str
    default: str
    meaning: str


def pages() -> dict[str, str]:
    """Return the content of each generated page by its file name."""
    return {
        "site-reference.md": _page("Keys of site.yaml", SITE_INTRO, *_sections(_schema("site"))),
        "protocol-reference.md": _page(
            "Keys of a protocol",
            PROTOCOL_INTRO,
            *_sections(_schema("protocol")),
            *_resources(),
        ),
        "radiomics-reference.md": _page(
            "Radiomics settings and features",
            RADIOMICS_INTRO,
            *_sections(_schema("radiomics")),
            *_features(),
        ),
        "models-reference.md": _page(
            "Keys of models.yaml and TotalSegmentator's tasks",
            MODELS_INTRO,
            *_sections(_schema("models")),
            *_tasks(),
        ),
        "reasons.md": _page(
            "Reason codes",
            REASONS_INTRO,
            _table(("code", "meaning"), ((f"`{r.value}`", f"{r.meaning}.") for r in Reason)),
            "## Flags of segments",
            FLAGS_INTRO,
            _table(("flag", "meaning"), ((f"`{f.value}`", f"{f.meaning}.") for f in Flag)),
        ),
    }


def write(folder: Path = DOCS) -> None:
    """Write every page into a folder."""
    for name, text in pages().items():
        with atomic_path(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def keys(schema: Schema, path: str = "", *, given: bool = True) -> Iterator[Key]:
    """List the keys below an object of a schema, in the schema's order.

    Args:
        schema: the object's schema, with every ``$ref`` resolved.
        path: where the object stands.
        given: whether the object is there in any case.
    """
    required = set(schema.get("required", ()))
    condition, needed = _condition(schema)
    for name, value in schema.get("properties", {}).items():
        if not isinstance(value, Mapping):
            continue
        where = f"{path}.{name}" if path else name
        if name in needed:
            default = f"required for {condition}; else not allowed"
        elif name in required:
            default = "required" if given else f"required if `{path.split('.')[-1]}` is given"
        elif "default" in value:
            default = f"`{_plain(value['default'])}`"
        else:
            default = "optional"
        yield from _key(value, where, default)


def _key(schema: Schema, path: str, default: str) -> Iterator[Key]:
    """List a key and what is below it."""
    meaning = str(schema.get("description", ""))
    items = schema.get("items", {})
    below = schema.get("additionalProperties")
    if "properties" in items:
        yield Key(path, "list", default, meaning)
        yield from keys(items, f"{path}[]")
    elif isinstance(below, Mapping):
        kind = "settings" if "properties" in below else _kind(below)
        yield Key(path, f"names with {kind} each", default, meaning)
        yield from keys(below, f"{path}.<name>")
    elif "properties" in schema:
        yield from keys(schema, path, given=default != "optional")
    else:
        yield Key(path, _kind(schema), default, meaning)


def _plain(value: Any) -> str:
    """Return a default as a person writes it in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _condition(schema: Schema) -> tuple[str, set[str]]:
    """Return when an object's conditional keys are required, in Markdown, and which they are."""
    if "if" not in schema:
        return "", set()
    ((name, value),) = schema["if"]["properties"].items()
    return f"{name} `{value['const']}`", set(schema["then"]["required"])


def _kind(schema: Schema) -> str:
    """Return the type and limits of a value in Markdown."""
    if "enum" in schema:
        return " or ".join(f"`{_plain(value)}`" for value in schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_one_kind(name, schema) for name in types)


def _one_kind(name: str, schema: Schema) -> str:
    if name == "string":
        return f"text like `{schema['pattern']}`" if "pattern" in schema else "text"
    if name == "boolean":
        return "`true` or `false`"
    if name == "null":
        return "`null`"
    if name == "array":
        count = f", at least {schema['minItems']}" if schema.get("minItems", 1) > 1 else ""
        return f"list of {_kind(schema['items'])}{count}"
    noun = {"integer": "whole number", "number": "number"}[name]
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    if "exclusiveMinimum" in schema:
        return f"{noun} above {schema['exclusiveMinimum']}"
    return f"{noun}, at least {low}" if low is not None else noun


def _schema(name: str) -> Schema:
    """Read a schema and resolve its references."""
    content = read_yaml(SCHEMAS / f"{name}.schema.yaml")
    resolved: Schema = _resolve(content, content.get("$defs", {}))
    return resolved


def _resolve(node: Any, definitions: Schema) -> Any:
    """Replace every reference to a definition by it; keys beside the reference win."""
    if isinstance(node, Mapping):
        plain = {key: _resolve(value, definitions) for key, value in node.items() if key != "$ref"}
        if "$ref" not in node:
            return plain
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return {**_resolve(target, definitions), **plain}
    if isinstance(node, list):
        return [_resolve(value, definitions) for value in node]
    return node


def _sections(schema: Schema) -> Iterator[str]:
    """Yield a section for each key of the top level."""
    for name, value in schema["properties"].items():
        yield f"## {name}"
        whole = {"properties": {name: value}, "required": schema["required"]}
        if "properties" in value and "description" in value:
            yield value["description"]
        yield _key_table(keys(whole))
        chosen, path = value, name
        if "items" in value:
            chosen, path = value["items"], f"{name}[]"
        elif isinstance(value.get("additionalProperties"), Mapping):
            chosen, path = value["additionalProperties"], f"{name}.<name>"
        for choice in chosen.get("allOf", []):
            ((key, selected),) = choice["if"]["properties"].items()
            required = [*chosen["required"], *choice["then"].get("required", [])]
            rows = list(keys({**choice["then"], "required": required}, path))
            if rows:
                yield f"### {name} with {key} `{selected['const']}`"
                yield _key_table(rows)


def _key_table(rows: Iterable[Key]) -> str:
    return _table(
        ("key", "type", "default", "meaning"),
        ((f"`{row.path}`", row.kind, row.default, row.meaning.replace("<", "\\<")) for row in rows),
    )


def _resources() -> Iterator[str]:
    """Yield the sections on the names that a protocol may use."""
    yield "## Columns of the series catalog"
    yield (
        "For `cohort.where` and the roles. Each is the DICOM attribute of that name in the series' "
        "first file, but for `PixelSpacingRow` and `PixelSpacingColumn` (the two values of Pixel "
        "Spacing), `NumberOfInstances` (the series' distinct instances) and `Source` (the name of "
        "the site's source). A text that is absent is empty, a number that is absent is NULL; the "
        "values of a multi-valued text are joined by `\\`."
    )
    yield _table(("column", "type"), ((f"`{name}`", kind) for name, kind in COLUMNS.items()))
    yield "## Terms"
    yield "For `term`; from [terms.yaml](../workflow/resources/terms.yaml)."
    yield _table(
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
    yield _table(
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
    yield _table(
        ("task", "images", "licence", "classes", "with a term", "fetch"),
        (
            (
                f"`{task.name}`",
                task.modality,
                "needs a number" if task.needs_licence else "open",
                str(len(task.labels)),
                str(sum(term is not None for term in task.terms.values())),
                "; ".join(
                    f"{mode}: {', '.join(f'`{name}`' for name in told.download)}"
                    for mode, told in task.modes.items()
                ),
            )
            for task in read_tasks().values()
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
    yield _table(
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


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _page(title: str, *blocks: str) -> str:
    return "\n\n".join((f"# {title}", GENERATED, *blocks)) + "\n"


if __name__ == "__main__":
    write()
