"""The crate of a run: what each job read, wrote, ran with and took.

By the profile Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance/0.5), from the records
of the jobs (`jipflow.provenance`) and from what a `Run` states, and nothing else. In the crate
are the workflow's rules and the protocol; results are named by their path and hash, and stay where
they are: at a site they are of patients, and an erasure must find them all.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow.costs import COLUMNS
from jipflow.crates.jobs import OWN, Job, jobs_of
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
from jipflow.provenance import Provenance
from jipflow.settings.digests import protocol_content
from jipflow.settings.protocol import Protocol
from jipflow.settings.reading import Named
from jipflow.settings.resources import ROOT
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

NAMES_PATIENTS = re.compile(rb"\d+(\.\d+){5,}|Patient(ID|Name|BirthDate)|UID|AccessionNumber")
"""What a filter has that may choose patients or series one by one: the columns of their names, IDs
and UIDs, and UIDs themselves (PS3.5, section 9)."""

RIGHTS = (
    "The workflow is under Apache-2.0. The results that are named here are not in the crate; "
    "whether anyone may have them the {owner} decides."
)
USAGE = {
    "seconds": ("time", "SEC"),
    "cpu_seconds": ("computing time of all processes", "SEC"),
    "peak_mb": ("most memory of all processes together, in MiB", "E63"),
}
"""What a job took: words, and the unit by UN/CEFACT's code."""


@dataclass(frozen=True)
class Other:
    """A file that a job read or wrote and that its record does not name.

    Attributes:
        path: in its address, below the results or as if it were.
        name: in words.
        sha256: its hash.
        by: id of the site that made it; empty where the run did.
    """

    path: str
    name: str
    sha256: str
    by: str = ""


@dataclass(frozen=True)
class Run:
    """What a crate states of a run beside the records of its jobs.

    Attributes:
        at: id of who ran it.
        owner: what that is: ``site`` or ``hub``.
        name: of the crate, a line.
        description: what was run, sentences.
        protocol: of the run.
        named: what that names.
        reads: other files that the jobs of a stage read, by stage.
        writes: other files that they wrote, likewise.
    """

    at: str
    owner: str
    name: str
    description: str
    protocol: Protocol
    named: Named
    reads: Mapping[str, Sequence[Other]] = field(default_factory=dict)
    writes: Mapping[str, Sequence[Other]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What the address of a file begins with, from which nothing can be fetched."""
        return f"arcp://name,{self.at}/"

    @property
    def sites(self) -> list[str]:
        """Ids of the sites that have made one of the other files, sorted."""
        return sorted({each.by for files in self.reads.values() for each in files if each.by})


def described(run: Run, results: Path, records: Iterable[Path]) -> bytes:
    """Return the crate of a run, a zip.

    Args:
        run: what the records do not say.
        results: folder of the results of all protocols.
        records: of its last jobs, which lead to all others.

    Raises:
        StageError: a record is missing or leads out of the results.
    """
    jobs = {job.name: job for job in sorted(jobs_of(results, records), key=lambda job: job.ended)}
    crate = new_crate(
        name=run.name,
        description=f"{run.description} The workflow, the protocol, and what each job read, wrote "
        "and took; results are named by path and SHA-256.",
        moment=moment_text(max(job.ended for job in jobs.values())),
        rights=RIGHTS.format(owner=run.owner),
        profiles=PROFILES,
    )
    crate.metadata["conformsTo"] = [ref(crate.metadata.profile), ref(PROFILES[-1][0])]
    content = canonical(protocol_content(run.protocol, run.named))
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in _workflow_files()}
    at = entity(crate, f"#{run.at}", "Organization", name=run.at)
    if NAMES_PATIENTS.search(content):
        given = _result(crate, run.place, PROTOCOL, describe(content).sha256)
    else:
        files[PROTOCOL] = content
        given = add_file(crate, PROTOCOL, content, exampleOfWork=ref(PARAMETER))
    workflow = _describe_workflow(crate, files, given, jobs.values())
    made = _describe_jobs(crate, jobs, run, at)
    root = crate.root_dataset
    root["mainEntity"] = ref(MAIN)
    whole = _describe_run(crate, jobs, workflow, given, made, at)
    root["mentions"] = [whole, *[ref(f"#job/{name}") for name in jobs]]
    root["author"] = root["publisher"] = at
    if run.sites:
        root["contributor"] = [
            entity(crate, _site(name), "Organization", name=name) for name in run.sites
        ]
    return zipped(crate, files)


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
        name=f"jipflow {stage.replace('_', ' ')}",
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
    crate: ROCrate, jobs: Mapping[str, Job], run: Run, at: Reference
) -> dict[str, list[Reference]]:
    """Describe each job; return by its name the files that it wrote."""
    made = {
        job.name: [
            *(_result(crate, run.place, *file) for file in sorted(job.outputs.items())),
            *(_other(crate, run.place, each) for each in run.writes.get(job.made.stage, ())),
        ]
        for job in jobs.values()
    }
    for job in jobs.values():
        read = [each for name in job.reads for each in made[name]]
        read += [_result(crate, run.place, *file) for file in sorted(job.inputs.items())]
        read += [_other(crate, run.place, each) for each in run.reads.get(job.made.stage, ())]
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
    """Describe a file of the results, or one that a record names by its hash alone."""
    shown = "a file of the site" if name.startswith(OWN) else name
    return _other(crate, place, Other(name, shown, digest))


def _other(crate: ROCrate, place: str, file: Other) -> Reference:
    """Describe a file that is not in the crate, by an address that nothing can be fetched from."""
    from rocrate.model.file import File

    properties: dict[str, object] = {"name": file.name, "sha256": file.sha256}
    if media := media_type(file.path):
        properties["encodingFormat"] = media
    if file.by:
        properties["author"] = ref(_site(file.by))
    crate.add(File(crate, place + file.path, properties=properties))
    return ref(place + file.path)


def _site(name: str) -> str:
    """Return how a crate names a site that did not run what it describes."""
    return f"#site/{name}"


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
