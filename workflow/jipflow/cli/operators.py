"""What the person calls who runs a site: its settings and the files of its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from jipflow.cli.audited import note_export
from jipflow.cli.command import REPEATED, Audience, UsageError
from jipflow.cli.rights import alone_with

AUDIENCE = Audience("To run a site")

Names = Annotated[str, "names of models; all by default"]
Registry = Annotated[Path | None, "the site's own; models/models.yaml by default"]


@AUDIENCE.command("site init")
def site_init(
    *,
    id_: Annotated[str | None, "short name of the site and of its profile"] = None,
    name: Annotated[str | None, "name of the hospital"] = None,
    folder: Annotated[Path | None, "for settings, secrets, results and messages"] = None,
    images: Annotated[Path | None, "folder with DICOM files"] = None,
    pacs: Annotated[str | None, "host:port, or https://host/path of DICOMweb"] = None,
    called_aet: Annotated[str | None, "application entity title of the PACS"] = None,
    calling_aet: Annotated[str, "our title, which the PACS must know"] = "JIPFLOW",
    protocol: Annotated[str | None, "id or path; without it each run names one"] = None,
    scheduler: Annotated[
        Literal["auto", "none", "slurm", "lsf", "sge", "pbs"], "auto looks which one answers"
    ] = "auto",
    partition: Annotated[str | None, "partition or queue of jobs"] = None,
    gpu_partition: Annotated[str | None, "partition of jobs that ask for a GPU"] = None,
    account: Annotated[str | None, "account of SLURM"] = None,
    profiles: Annotated[Path | None, "folder for the profile, instead of Snakemake's own"] = None,
    yes: Annotated[bool, "ask nothing; what is missing is an error"] = False,
    replace: Annotated[bool, "replace a profile that says something else, and keep it"] = False,
) -> None:
    """Write a new site's settings, keys and profile.

    It looks for cores, memory, GPUs, a scheduler and the PACS, asks what it cannot see, and says
    what it decided and why. Then `snakemake --profile ID` runs the site from any folder.
    """
    from jipflow.cli.beginning import Given, begin

    begin(
        Given(
            id_=id_,
            name=name,
            folder=folder,
            images=images,
            pacs=pacs,
            called_aet=called_aet,
            calling_aet=calling_aet,
            protocol=protocol,
            scheduler=None if scheduler == "auto" else scheduler,
            partition=partition,
            gpu_partition=gpu_partition,
            account=account,
            profiles=profiles,
            yes=yes,
            replace=replace,
        )
    )


@AUDIENCE.command("config show")
def config_show(
    *,
    configfile: Annotated[Path, "site.yaml"],
    protocol: Annotated[str | None, "id or path, unless the file names it"] = None,
) -> None:
    """Check the settings, and print them with every default."""
    import yaml

    from jipflow.settings.resources import read_mapping
    from jipflow.settings.run import load_settings

    content = read_mapping(configfile)
    if protocol is not None:
        content["protocol"] = protocol
    if "protocol" not in content:
        raise UsageError(f"{configfile} names no protocol; add --protocol ID-OR-PATH")
    settings = load_settings(content, str(configfile))
    print(yaml.safe_dump(settings.plain(), sort_keys=False), end="")


@AUDIENCE.command("archive")
def archive(
    *,
    key: Annotated[Path, "your private key, which signs it; made by jipflow keys new"],
    out: Annotated[Path, "folder for jipflow-<version>-<commit>.zip and its signature"],
    commit: Annotated[str, "commit or tag of this clone"] = "HEAD",
    extra: Annotated[Sequence[str], "extra of the package, such as nnunet", REPEATED] = (),
    carry: Annotated[
        Sequence[Path], "file that comes along: jipflow models bundle, container image", REPEATED
    ] = (),
) -> None:
    """Pack all that a site without network installs from into one signed file."""
    from jipflow.exchange.keys import load_key, public_text
    from jipflow.offline.archive import build_archive
    from jipflow.settings.resources import ROOT

    private = load_key(key)
    path = build_archive(
        repository=ROOT, commit=commit, extras=extra, carried=carry, key=private, folder=out
    )
    print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
    print(f"{path}.sig")
    print(f"key: {public_text(private)}")


@AUDIENCE.command("manifest")
def manifest(
    file: Annotated[Path, "download manifest of IDC (.s5cmd, .csv) or TCIA (.tcia, .csv)"],
    /,
    *,
    out: Annotated[Path | None, "file for the filter, instead of printing it"] = None,
    catalog: Annotated[Path | None, "folder of a catalog, which it is compared with"] = None,
    index: Annotated[Path | None, "IDC's index, which knows the UUIDs of s5cmd manifests"] = None,
) -> None:
    """Make a protocol's cohort filter of the series of a download manifest."""
    import sys

    from jipflow.catalog.manifest import condition, read_manifest, resolve, series_of
    from jipflow.files import atomic_path
    from jipflow.reasons import StageError
    from jipflow.words import number_of

    def tell(text: str) -> None:
        print(text, file=sys.stderr)

    found = read_manifest(file)
    unknown = resolve(found, index, catalog)
    if unknown:
        raise StageError(
            f"{file} names {number_of(len(unknown), 'folder')} of IDC's buckets "
            f"({min(unknown)}, …) of which nothing here tells the SeriesInstanceUID. Give IDC's "
            "index by --index (idc_index.parquet of the package idc-index-data, of the version of "
            "the manifest), or a catalog by --catalog in whose paths the folders have their names."
        )
    lines = [f"    {line}" for line in condition(found.series).splitlines()]
    text = "\n".join(["cohort:", "  where: |", *lines]) + "\n"
    if out is None:
        print(text, end="")
    else:
        with atomic_path(out) as partial:
            partial.write_text(text, encoding="utf-8")
    tell(f"{file}: {len(found.series)} series")
    if catalog is not None:
        there = series_of(catalog)
        missing = sorted(found.series - there)
        tell(f"{catalog}: {len(found.series) - len(missing)} of them are there")
        tell(f"missing there: {len(missing)}")
        for uid in missing:
            tell(f"  {uid}")
        tell(f"there, and not in the manifest: {len(there - found.series)}")


@AUDIENCE.command("whois")
def whois(
    *code: Annotated[str, "pseudonyms, or codes such as qy7m2ub4 of ‹file qy7m2ub4›"],
    configfile: Annotated[Path, "site.yaml"],
    results: Annotated[Path | None, "folder for the results of all protocols"] = None,
) -> None:
    """Print whose a pseudonym is, or which file a message is about: it names patients.

    The audit trail has a line of each use.
    """
    from jipflow.catalog.whose import Places, trace
    from jipflow.cli.audited import note_whois
    from jipflow.cli.rights import masked
    from jipflow.privacy.pseudonyms import check_secret, known_secret
    from jipflow.reasons import StageError
    from jipflow.settings.run import load_site

    if not code:
        raise UsageError("name pseudonyms or codes")
    site, folder = load_site(configfile, results)
    secret = Path(site.identity.secret_file)
    check_secret(secret, folder)
    found = trace(code, Places.of(site, folder), known_secret(secret))
    # First, so that nobody is named whose asking is not noted.
    with masked(site.permissions.mask):
        note_whois(site, folder, found)
    for each, traced in found.items():
        print(each)
        for one in traced:
            known = "  ".join(filter(None, (one.patient, one.study, one.series)))
            print(f"  {one.kind}  {known}  {one.what}")
    missing = [each for each, traced in found.items() if not traced]
    if missing:
        raise StageError(
            f"{folder} has no catalog in which {', '.join(missing)} is of anything: name the "
            "results that it comes from by --results."
        )


@AUDIENCE.command("models fetch")
def models_fetch(
    *name: Annotated[str, "names of models"],
    all_: Annotated[bool, "every model, or all of the bundle"] = False,
    from_: Annotated[Path | None, "a bundle, instead of the network"] = None,
    registry: Registry = None,
) -> None:
    """Fetch the files of models that are missing or wrong."""
    from jipflow.models.store import fetch, fetch_from_bundle, known_models

    if bool(name) == all_:
        raise UsageError("name the models, or type --all for every one")
    if from_ is not None:
        taken = fetch_from_bundle(from_, name, registry)
    else:
        taken = {model.name: fetch(model) for model in known_models(name, registry)}
    for model, files in taken.items():
        print(f"{model}: {len(files)} files fetched, the others were there")


@AUDIENCE.command("models verify")
def models_verify(*name: Names, registry: Registry = None) -> None:
    """Compare the files of models with their pinned hashes."""
    from jipflow.models.registry import problems
    from jipflow.models.store import known_models
    from jipflow.reasons import StageError

    wrong = []
    for model in known_models(name, registry):
        found = list(problems(model))
        print("\n".join(f"{model.name}: {line}" for line in found or ["ok"]))
        if found:
            wrong.append(model.name)
    if wrong:
        raise StageError(f"these models are not the pinned ones: {', '.join(wrong)}.")


@AUDIENCE.command("models bundle")
def models_bundle(
    out: Annotated[Path, "the zip archive that is written"],
    *name: Names,
    registry: Registry = None,
) -> None:
    """Pack models for a site without network."""
    from jipflow.files import sha256_file
    from jipflow.models.store import known_models, write_bundle

    write_bundle(out, known_models(name, registry))
    print(f"{sha256_file(out)}  {out}")


@AUDIENCE.command("omop export")
def omop_export(
    results: Annotated[Path, "results folder of the protocol"],
    out: Annotated[Path, "folder for the tables, which name patients"],
    *,
    persons: Annotated[Path, "patient_id,person_id: a CSV, or a SELECT in a .sql file"],
    first_id: Annotated[int, "first free id of image_occurrence, image_feature and measurement"],
    studies: Annotated[Path | None, "visit and procedure by study_uid, likewise"] = None,
    concepts: Annotated[Path | None, "code_system,code,concept_id: a CSV"] = None,
    database: Annotated[Path | None, "DuckDB file that a SELECT asks"] = None,
    format: Annotated[Literal["csv", "parquet"], "of the tables"] = "csv",
) -> None:
    """Write a protocol's features for the site's own OMOP warehouse."""
    from jipflow.omop.export import Maps, export
    from jipflow.omop.maps import ConceptMap, read_concepts, read_persons, read_studies

    maps = Maps(
        read_persons(persons, database),
        read_studies(studies, database) if studies else {},
        ConceptMap(read_concepts(concepts) if concepts else {}),
    )
    with alone_with(results, "jipflow omop export"):
        made = export(results=results, out=out, maps=maps, first_id=first_id, form=format)
        tables = [out / f"{table}.{format}" for table in made.rows]
        note_export(results, "omop", tables, files=len(tables), items=sum(made.rows.values()))
    for table, rows in made.rows.items():
        print(f"{out / table}.{format}: {rows} rows")
    for reason, series in sorted(made.left_out.items()):
        print(f"left out, {reason}: {series} series")
    print(f"features without a value, which have no row: {made.failed}")
    print(f"series without procedure_occurrence_id: {made.without_procedure}")
    print(f"codes without a concept, which have concept_id 0: {len(made.unmapped)}")
