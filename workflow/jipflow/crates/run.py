"""The crate of a run at a site: what each job read, wrote, ran with and took.

By the profile Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance/0.5), from the records
of the jobs (`jipflow.provenance`) and from nothing else. In the crate are the workflow's rules and
the protocol; results are named by their path and hash, and stay where they are: they are of
patients, and an erasure must find them all.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.costs import COLUMNS, cost_file
from jipflow.crates.packing import (
    PROCESS,
    Reference,
    add_file,
    entity,
    media_type,
    moment_text,
    new_crate,
    ref,
    zipped,
)
from jipflow.exchange.message import canonical, describe
from jipflow.provenance import NAME, Provenance, read_provenance
from jipflow.reasons import StageError
from jipflow.settings.digests import protocol_content
from jipflow.settings.resources import ROOT
from jipflow.settings.run import Settings
from jipflow.version import full_version

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

PROFILES = (
    PROCESS,
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate", "0.5"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate", "0.5"),
    ("https://w3id.org/workflowhub/workflow-ro-crate/1.0", "Workflow RO-Crate", "1.0"),
)

MAIN = "workflow/Snakefile"
PROTOCOL = "protocol.json"
"""The canonical JSON whose SHA-256 is that of the protocol in messages."""

PARAMETER = "#protocol"

SITES_OWN = ".site/"
"""Stands for the path of a file that a job read and that is not among the results."""

NAMES_PATIENTS = re.compile(rb"\d+(\.\d+){5,}|Patient(ID|Name|BirthDate)|UID|AccessionNumber")
"""What a filter has that may choose patients or series one by one: the columns of their names, IDs
and UIDs, and UIDs themselves (PS3.5, section 9)."""

RIGHTS = (
    "The workflow is under Apache-2.0. The results that are named here are not in the crate; "
    "whether anyone may have them the site decides."
)
USAGE = {
    "seconds": ("time", "SEC"),
    "cpu_seconds": ("computing time of all processes", "SEC"),
    "peak_mb": ("most memory of all processes together, in MiB", "E63"),
}
"""What a job took: words, and the unit by UN/CEFACT's code."""


@dataclass(frozen=True)
class Job:
    """A job that has run.

    Attributes:
        name: of its record's folder, or of the record without its common end, below the results.
        made: its record.
        ended: when the record was written, in seconds since 1970.
        took: its `COLUMNS`; empty where nothing was measured.
        reads: names of the jobs whose files it read.
        inputs: SHA-256 of the other files that it read, by path below the results; by `SITES_OWN`
            and the hash where they are the site's, such as its table of clinical data.
        outputs: SHA-256 of the tables that it wrote, by path below the results.
    """

    name: str
    made: Provenance
    ended: float
    took: Mapping[str, float]
    reads: Sequence[str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def run_crate(settings: Settings, results: Path, records: Iterable[Path]) -> bytes:
    """Return the crate of a run, a zip.

    Args:
        settings: of the run.
        results: folder of the results of all protocols.
        records: of its last jobs, which lead to all others.

    Raises:
        StageError: a record is missing or leads out of the results.
    """
    jobs = {job.name: job for job in sorted(_jobs(results, records), key=lambda job: job.ended)}
    moment = moment_text(max(job.ended for job in jobs.values()))
    protocol = settings.protocol.protocol
    site = settings.site.site.id
    crate = new_crate(
        name=f"{protocol.id} {protocol.version} at {site}",
        description=f"A run of jipflow: {protocol.title}. The workflow, the protocol, and what "
        "each job read, wrote and took; results are named by path and SHA-256.",
        moment=moment,
        rights=RIGHTS,
        profiles=PROFILES,
    )
    crate.metadata["conformsTo"] = [ref(crate.metadata.profile), ref(PROFILES[-1][0])]
    content = canonical(protocol_content(settings.protocol, settings.named))
    place = f"arcp://name,{site}/"
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in _workflow_files()}
    at = entity(crate, f"#{site}", "Organization", name=site)
    if NAMES_PATIENTS.search(content):
        given = _result(crate, place, PROTOCOL, describe(content).sha256)
    else:
        files[PROTOCOL] = content
        given = add_file(crate, PROTOCOL, content, exampleOfWork=ref(PARAMETER))
    described = _describe_workflow(crate, files, given, jobs.values())
    made = _describe_jobs(crate, jobs, place, at)
    root = crate.root_dataset
    root["mainEntity"] = ref(MAIN)
    run = _describe_run(crate, jobs, described, given, made, at)
    root["mentions"] = [run, *[ref(f"#job/{name}") for name in jobs]]
    root["author"] = root["publisher"] = at
    return zipped(crate, files)


def _jobs(results: Path, records: Iterable[Path]) -> Iterator[Job]:
    """Yield the jobs that records lead to, each once."""
    seen: set[Path] = set()
    waiting = [_plain(path) for path in records]
    root = _plain(results)
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        made = read_provenance(path)
        if made is None:
            raise StageError(f"{path}: no record of a job; run the same snakemake command again.")
        inputs = {_plain(path.parent / name): digest for name, digest in made.inputs.items()}
        earlier = [file for file in inputs if file.name.endswith(NAME)]
        waiting += earlier
        yield Job(
            name=_job_name(path, root),
            made=made,
            ended=path.stat().st_mtime,
            took=_took(path),
            reads=[_job_name(file, root) for file in earlier],
            inputs={
                _below(file, root) if file.is_relative_to(root) else SITES_OWN + digest: digest
                for file, digest in inputs.items()
                if file not in earlier
            },
            outputs={
                _below(_plain(path.parent / name), root): digest
                for name, digest in made.outputs.items()
            },
        )


def _plain(path: Path) -> Path:
    """Return an absolute path without ``..``; a folder of the results may be a link, and stays."""
    return Path(os.path.normpath(os.path.abspath(path)))


def _job_name(record: Path, root: Path) -> str:
    return _below(record, root).removesuffix(NAME).rstrip("/.")


def _below(path: Path, root: Path) -> str:
    """Return a path below the results; one of a job that leads out of them could name a person."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise StageError(
            "A record names a file outside the results, which a crate does not show; run the same "
            "snakemake command again with --forceall."
        ) from None


def _took(record: Path) -> dict[str, float]:
    """Return what a job took; empty where it was not measured, or where the file is damaged."""
    try:
        names, values = cost_file(record).read_text(encoding="ascii").splitlines()
        took = dict(zip(names.split("\t"), map(float, values.split("\t")), strict=True))
    except (FileNotFoundError, ValueError):
        return {}
    return took if took.keys() == set(COLUMNS) else {}


def _workflow_files() -> list[Path]:
    return [ROOT / MAIN, *sorted((ROOT / "rules").glob("*.smk"))]


def _describe_workflow(
    crate: ROCrate, files: Mapping[str, bytes], protocol: Reference, jobs: Iterable[Job]
) -> Reference:
    """Describe the workflow, its stages as tools and steps, and the protocol as its input."""
    stages = {job.made.stage: job.made for job in jobs}
    language = entity(
        crate,
        "https://w3id.org/workflowhub/workflow-ro-crate#snakemake",
        "ComputerLanguage",
        name="Snakemake",
        version=metadata.version("snakemake"),
        identifier=ref("https://doi.org/10.1093/bioinformatics/bts480"),
        url=ref("https://snakemake.readthedocs.io"),
    )
    parameter = entity(
        crate,
        PARAMETER,
        "FormalParameter",
        name="protocol",
        description="what the study is, the same at every site",
        additionalType="File",
        valueRequired="True",
        workExample=protocol,
        conformsTo=ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"),
    )
    for name in sorted(files.keys() - {MAIN, PROTOCOL}):
        add_file(
            crate,
            name,
            files[name],
            ["SoftwareSourceCode"],
            programmingLanguage=language,
            version=full_version(),
        )
    tools, steps = [], []
    for position, (stage, made) in enumerate(stages.items(), start=1):
        tool = _tool(crate, stage, made)
        tools.append(tool)
        steps.append(
            entity(
                crate,
                _step(stage)["@id"],
                "HowToStep",
                name=stage,
                position=str(position),
                workExample=tool,
            )
        )
    return add_file(
        crate,
        MAIN,
        files[MAIN],
        ["SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        programmingLanguage=language,
        version=full_version(),
        conformsTo=ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
        license=ref("https://spdx.org/licenses/Apache-2.0"),
        input=[parameter],
        hasPart=tools,
        step=steps,
    )


def _tool(crate: ROCrate, stage: str, made: Provenance) -> Reference:
    """Describe the command of a stage with the libraries that its numbers depend on."""
    needed = {"python": platform.python_version(), **made.libraries}
    return entity(
        crate,
        f"#tool/{stage}",
        "SoftwareApplication",
        name=f"jipflow {stage}",
        version=made.version,
        softwareRequirements=[_software(crate, name, version) for name, version in needed.items()],
    )


def _software(crate: ROCrate, name: str, version: str) -> Reference:
    """Describe a program or library by its page at python.org or PyPI."""
    address = f"https://pypi.org/project/{name}/{version}/"
    if name == "python":
        address = f"https://www.python.org/downloads/release/python-{version.replace('.', '')}/"
    return entity(
        crate, address, "SoftwareApplication", name=name, version=version, url=ref(address)
    )


def _step(stage: str) -> Reference:
    return ref(f"{MAIN}#{stage}")


def _describe_jobs(
    crate: ROCrate, jobs: Mapping[str, Job], place: str, at: Reference
) -> dict[str, list[Reference]]:
    """Describe each job; return by its name the tables that it wrote."""
    made = {
        job.name: [_result(crate, place, *file) for file in sorted(job.outputs.items())]
        for job in jobs.values()
    }
    for job in jobs.values():
        read = [each for name in job.reads for each in made[name]]
        read += [_result(crate, place, *file) for file in sorted(job.inputs.items())]
        times = {"endTime": moment_text(job.ended)}
        if job.took:
            times["startTime"] = moment_text(job.ended - job.took["seconds"])
        entity(
            crate,
            f"#job/{job.name}",
            "CreateAction",
            name=f"{job.made.stage}: {job.name}",
            description=f"The job of which the record is in {job.name}.",
            instrument=ref(f"#tool/{job.made.stage}"),
            agent=at,
            object=read,
            result=made[job.name],
            actionStatus="http://schema.org/CompletedActionStatus",
            resourceUsage=[_usage(crate, job, column) for column in COLUMNS if column in job.took],
            **times,
        )
        entity(
            crate,
            f"#control/{job.name}",
            "ControlAction",
            name=f"orchestrate {job.name}",
            instrument=_step(job.made.stage),
            object=ref(f"#job/{job.name}"),
        )
    return made


def _result(crate: ROCrate, place: str, name: str, digest: str) -> Reference:
    """Describe a file that is not in the crate, by an address that nothing can be fetched from."""
    from rocrate.model.file import File

    shown = "a file of the site" if name.startswith(SITES_OWN) else name
    properties = {"name": shown, "sha256": digest}
    if media := media_type(name):
        properties["encodingFormat"] = media
    crate.add(File(crate, place + name, properties=properties))
    return ref(place + name)


def _usage(crate: ROCrate, job: Job, column: str) -> Reference:
    words, unit = USAGE[column]
    return entity(
        crate,
        f"#usage/{job.name}/{column}",
        "PropertyValue",
        name=words,
        propertyID=f"jipflow:{column}",
        value=str(job.took[column]),
        unitCode=unit,
    )


def _describe_run(
    crate: ROCrate,
    jobs: Mapping[str, Job],
    workflow: Reference,
    protocol: Reference,
    made: Mapping[str, Sequence[Reference]],
    at: Reference,
) -> Reference:
    """Describe the run as a whole, and that Snakemake ran its jobs."""
    read = {name for job in jobs.values() for name in job.reads}
    times = {
        "startTime": moment_text(
            min(job.ended - job.took.get("seconds", 0) for job in jobs.values())
        ),
        "endTime": moment_text(max(job.ended for job in jobs.values())),
    }
    run = entity(
        crate,
        "#run",
        "CreateAction",
        name="run of the workflow",
        description="From the protocol to the tables that no other job read.",
        instrument=workflow,
        agent=at,
        object=[protocol],
        result=[each for name, files in made.items() if name not in read for each in files],
        actionStatus="http://schema.org/CompletedActionStatus",
        **times,
    )
    engine = _software(crate, "snakemake", metadata.version("snakemake"))
    entity(
        crate,
        "#orchestration",
        "OrganizeAction",
        name="orchestration by Snakemake",
        instrument=engine,
        agent=at,
        object=[ref(f"#control/{name}") for name in jobs],
        result=run,
        **times,
    )
    return run
