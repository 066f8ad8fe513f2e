"""The settings of a site: where the images are and how a run behaves here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from jipflow.settings import resources
from jipflow.settings.addresses import ExchangePlace, Way, way
from jipflow.settings.after_run import AfterRun
from jipflow.settings.clinical import AnyClinical
from jipflow.settings.consent import ConsentList
from jipflow.settings.export import Export
from jipflow.settings.hub import PublicKey
from jipflow.settings.names import among
from jipflow.settings.part import AsGiven, Id, LocalPath, Maybe, Part, Positive, Text, Unique
from jipflow.settings.permissions import Permissions
from jipflow.settings.registry import OwnModels
from jipflow.settings.resources import ConfigError
from jipflow.settings.schema import check_unique

Url = Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Aet = Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
Hours = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
MatchedAttribute = Literal[
    "PatientID",
    "StudyDate",
    "StudyInstanceUID",
    "StudyDescription",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "BodyPartExamined",
]
MATCHED: list[MatchedAttribute] = [
    "PatientID",
    "StudyDate",
    "StudyInstanceUID",
    "StudyDescription",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
]


class Hospital(Part):
    """Which site this is."""

    id: Id
    """Short name of the site in bundles and reports."""
    name: Text
    """Name of the site for its own report; it does not leave."""


class Source(Part):
    """Where images are."""

    name: Id
    """Name of the source; the catalog's column Source."""
    kind: str
    """A folder of files; a PACS asked by DICOMweb; or a PACS asked by DIMSE messages."""


class Folder(Source):
    """A folder of files."""

    kind: Literal["folder"]
    path: LocalPath
    """Folder that is searched with all its subfolders."""


class Access(Part):
    """How a server lets jipflow in that is asked by HTTP."""

    token_env: Maybe[Variable] = None
    """Environment variable that holds a bearer token."""
    token_file: Maybe[LocalPath] = None
    """File of mode 0600 that holds a bearer token."""
    user: Maybe[Text] = None
    """User of HTTP basic authentication."""
    password_env: Maybe[Variable] = None
    """Environment variable that holds the user's password."""
    password_file: Maybe[LocalPath] = None
    """File of mode 0600 that holds the user's password."""
    ca_file: Maybe[LocalPath] = None
    """Certificates (PEM) that the server's is checked against; without it those that the system
    trusts."""


class Deletion(Access):
    """How objects that jipflow has sent are deleted in the PACS, once their patient is erased."""

    url: Maybe[Url] = None
    """Base address of the DICOMweb services, or of Orthanc's REST interface, that delete; without
    it the source's own. Credentials of the source are sent to its own address alone."""
    by: Literal["dicomweb", "orthanc", "rejection_note"]
    """By DELETE of an instance's DICOMweb address, by Orthanc's REST interface, or by a rejection
    note (IHE IOCM), which is stored like any object and has the PACS hide what it names."""
    title: Literal["data_retention", "patient_safety", "quality"] = "data_retention"
    """Title of a rejection note (DICOM CID 7011): Data Retention Policy Expired (113039), Rejected
    for Patient Safety Reasons (113037), or Rejected for Quality Reasons (113001)."""


class Archive(Source):
    """A PACS."""

    match: Annotated[list[MatchedAttribute], Unique] = MATCHED
    """Attributes by which the PACS can narrow a query; the rest of the filter is applied here."""
    parallel: Annotated[int, Field(ge=1, le=16)] = 4
    """Most connections to the PACS at a time."""
    bytes_per_second: Maybe[Annotated[int, Field(ge=1000)]] = None
    """Most bytes a second, over all connections, that are retrieved or sent; without it no limit.
    """
    hours: Maybe[Hours] = None
    """Local time of day in which images are moved, such as 19:00-06:00; outside it the run waits.
    """
    bytes_per_instance: Annotated[int, Field(ge=1000)] = 512 << 20
    """Most bytes of an instance that is retrieved; `parallel` of them are held in memory at a time.
    """
    bytes_per_answer: Annotated[int, Field(ge=1000)] = 128 << 20
    """Most bytes of an answer to a query; it takes up to twenty times as much memory."""
    timeout: Annotated[int, Field(ge=1)] = 60
    """Seconds without an answer after which the PACS counts as down. An answer as a whole may take
    five times as long, and one more second for each 10,000 bytes."""
    deletion: Maybe[Deletion] = None
    """How objects that jipflow has sent are deleted in the PACS, once their patient is erased;
    without it they are listed. See [consent.md](consent.md#objects-in-the-pacs)."""


class DicomWeb(Access, Archive):
    """A PACS asked by DICOMweb."""

    kind: Literal["dicomweb"]
    url: Url
    """Base address of the PACS's DICOMweb services."""


class Tls(Part):
    """Encrypts the connection (PS3.15 annex B); files are PEM."""

    ca_file: LocalPath
    """Certificates that the PACS's is checked against."""
    cert_file: Maybe[LocalPath] = None
    """Our certificate, where the PACS asks for one."""
    key_file: Maybe[LocalPath] = None
    """Its private key in a file of mode 0600."""


class Dimse(Archive):
    """A PACS asked by DIMSE messages."""

    kind: Literal["dimse"]
    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]+$")]
    """Name or address of the PACS."""
    port: Port
    """Its DICOM port."""
    called_aet: Aet
    """Its application entity title."""
    calling_aet: Aet
    """Our application entity title, which the PACS must know."""
    retrieve: Literal["get", "move"] = "get"
    """How series come here, by C-GET on our connection, or by C-MOVE to `listen_port`."""
    listen_port: Port = 11112
    """Port on which C-MOVE's images are received; the PACS must know it under `calling_aet`."""
    listen_address: Annotated[str, Field(pattern=r"^[0-9A-Fa-f.:]+$")] = "0.0.0.0"
    """Address of this machine on which C-MOVE's images are received."""
    tls: Maybe[Tls] = None
    """Encrypts the connection (PS3.15 annex B); files are PEM."""


AnySource = Annotated[Folder | DicomWeb | Dimse, Field(discriminator="kind")]


class Publish(Part):
    """What is sent to a PACS."""

    to: Id
    """Name of the source of kind dicomweb or dimse that takes them."""
    objects: Annotated[list[Literal["seg", "sr"]], Field(min_length=1), Unique] = Field(
        default=["seg", "sr"]
    )
    """What is sent, segmentations or measurement reports."""


def _no_secret(value: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise PydanticCustomError("secret", "name the file that holds the secret, not the secret")
    return value


class Identity(Part):
    """The secrets of a site."""

    secret_file: Annotated[LocalPath, AfterValidator(_no_secret)] = "secrets/identity.key"
    """Secret behind the pseudonyms; made on first use with mode 0600. Back it up, never share it.
    Results that another one made are refused."""
    signing_key_file: LocalPath = "secrets/site.key"
    """Ed25519 key that signs this site's messages, and that the hub's are sealed to; made on first
    use with mode 0600."""
    ledger_folder: LocalPath = "secrets/ledger"
    """Which patients stood behind every number that ever left the site, of whatever protocol. Back
    it up and move it with the secret; without it nothing is released."""
    audit_file: LocalPath = "secrets/audit.jsonl"
    """What was read, released, erased and exported at this site, a signed line each; see
    [audit.md](audit.md). Back it up with the ledger; if it is not whole no job goes on."""


class Addressee(Part):
    """The hub of the federation."""

    id: Id = "hub"
    """The hub that messages are addressed to."""
    key: PublicKey | None = None
    """Its public key, as `jipflow keys show` prints it there: messages are sealed to it, and what
    it has not signed is refused. Nothing is sent without it."""


class Exchange(Part):
    """Where messages from and to the hub are."""

    inbox: ExchangePlace | None = None
    """Folder that the hub's messages are put into, or the address of one (s3://bucket/prefix,
    davs://host/path) that they are fetched from; without it, exchange/in in the results."""
    outbox: ExchangePlace | None = None
    """Folder for the messages to the hub, or the address of one that they are sent to; without it,
    exchange/out in the results."""

    def ways(self, results: Path) -> tuple[Way, Way]:
        """Return the ways of the messages that come and of those that go.

        Args:
            results: folder for the results of all protocols.
        """
        own = results / "exchange"
        return way(self.inbox, own / "in"), way(self.outbox, own / "out")

    def folders(self, results: Path) -> tuple[Path, Path]:
        """Return inbox and outbox of this machine.

        Args:
            results: folder for the results of all protocols.
        """
        inbox, outbox = self.ways(results)
        return inbox.folder, outbox.folder


class Processing(Part):
    """How cases are processed."""

    shard_size: Annotated[int, Field(ge=1)] | None = None
    """Most cases that one job processes; without it 50, and more in a cohort of above 35,000
    cases: 84 of 100,000. A case keeps its shard for ever; a change applies to new shards."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where neural networks run; auto takes a GPU where there is one."""
    totalsegmentator_licence_file: LocalPath | None = None
    """File with the licence number that some tasks of TotalSegmentator need; keep it like a
    password."""


class Annotation(Part):
    """Where readers put what they drew."""

    inbox: LocalPath | None = None
    """Folder into which readers put what they drew, below
    <protocol>/<segmentation>/<case>/<reader>; without it, the folder inbox in the protocol's
    results."""


class Containers(Part):
    """How algorithms in containers run."""

    runtime: Literal["auto", "apptainer", "podman", "charliecloud", "docker"] = "auto"
    """What runs them; auto takes the first of apptainer, podman, charliecloud and docker that is
    installed."""
    minutes: Positive = 60
    """An algorithm that finishes no case for so long is ended."""
    memory_gb: Annotated[int, Field(ge=1)] | None = None
    """Most memory of a container of podman or docker, which a cluster's limits do not reach;
    without it no limit."""


class Noise(Part):
    """What cells with noise may take of each patient; without it none leave."""

    budget: Annotated[float, Field(gt=0, le=100), AsGiven]
    """Epsilon that all releases together may take of a patient, for ever; one who has too little
    left is left out of a cell. See [release.md](release.md#noise)."""


class Stricter(Part):
    """A site may only be stricter than the protocol."""

    min_patients: Annotated[int, Field(ge=5)] = 5
    """Fewest patients behind any released number; the larger of this and the protocol's applies.
    """
    largest_two: Annotated[float, Field(gt=0, le=0.9), AsGiven] = 0.9
    """Largest share of the magnitude of all values that the two patients with the most may have
    in a mean; the smaller of this and the protocol's applies."""
    p_percent: Annotated[float, Field(ge=10, le=100), AsGiven] = 10
    """What all patients but the two with the most must at least add to a mean, in percent of what
    the one with the most adds; the larger of this and the protocol's applies."""
    approvers: Literal[1, 2] = 1
    """How many persons must approve what leaves, each with a key of their own."""
    noise: Maybe[Noise] = None
    """Lets analyses with noise leave, each patient with a budget."""

    def limits(self) -> dict[str, Any]:
        """Return the limits that the protocol has as well."""
        return self.model_dump(exclude={"approvers", "noise"})


class Site(Part):
    """Where and how jipflow runs at one hospital.

    Nothing here may change what a protocol computes.
    """

    site: Hospital
    sources: Annotated[list[AnySource], Field(min_length=1)]
    """Where the images are."""
    clinical: Maybe[AnyClinical] = None
    """Where the clinical data are, which a protocol may ask for; see [clinical.md](clinical.md)."""
    consent: Maybe[ConsentList] = None
    """The list of consents, which a protocol may ask for; see [consent.md](consent.md)."""
    publish: Publish | None = None
    """Sends the DICOM objects that a run makes to a PACS; off where it is absent."""
    identity: Identity = Field(default_factory=Identity)
    hub: Addressee = Field(default_factory=Addressee)
    exchange: Exchange = Field(default_factory=Exchange)
    permissions: Permissions = Field(default_factory=Permissions)
    processing: Processing = Field(default_factory=Processing)
    annotation: Annotation = Field(default_factory=Annotation)
    containers: Containers = Field(default_factory=Containers)
    """How algorithms in containers run."""
    disclosure: Stricter = Field(default_factory=Stricter)
    """A site may only be stricter than the protocol."""
    export: Export = Field(default_factory=Export)
    """What leaves of images, once a person exports them; of heads the site may only be stricter
    than the protocol."""
    models: Maybe[OwnModels] = None
    """The models that only this site has; without it they are those of models/models.yaml, if it is
    there."""

    after_run: Maybe[AfterRun] = None
    """A command that is run when a run is over; none where it is absent."""

    @property
    def registry(self) -> Path:
        """The file that pins the models that only this site has."""
        return Path(self.models.registry) if self.models else resources.OWN_MODELS

    @property
    def archives(self) -> list[DicomWeb | Dimse]:
        """The sources that are a PACS."""
        return [source for source in self.sources if not isinstance(source, Folder)]

    def located(self) -> Site:
        """Return the same with the path of each folder source from the root.

        The catalog of a relative path is of what lies there as seen from one start folder; from
        another one the path may name other images.
        """
        sources = [
            source.model_copy(update={"path": str(Path(source.path).absolute())})
            if isinstance(source, Folder)
            else source
            for source in self.sources
        ]
        return self.model_copy(update={"sources": sources})


def check_site(site: Site, context: str) -> None:
    """Check what types cannot say: that folders are there and names are of something.

    Raises:
        ConfigError: one is not.
    """
    check_unique([source.name for source in site.sources], context, "sources")
    for source in site.sources:
        if isinstance(source, Folder):
            _check_folder(source, context)
    for archive in site.archives:
        _check_deletion(archive, context)
    archives = [source.name for source in site.archives]
    if site.publish is not None and site.publish.to not in archives:
        raise ConfigError(
            f"{context}: publish.to: {site.publish.to!r} is not a source of kind dicomweb or "
            f"dimse{among(site.publish.to, archives)}"
        )


def _check_deletion(source: DicomWeb | Dimse, context: str) -> None:
    deletion = source.deletion
    if deletion is None:
        return
    named = f"{context}: source {source.name!r}: deletion"
    web = deletion.model_dump(exclude={"by", "title"}, exclude_none=True)
    if deletion.by == "rejection_note" and web:
        raise ConfigError(
            f"{named}: a rejection note goes the way of all objects; remove {', '.join(web)}."
        )
    own = deletion.by == "dicomweb" and isinstance(source, DicomWeb)
    if deletion.by != "rejection_note" and deletion.url is None and not own:
        what = "DICOMweb services" if deletion.by == "dicomweb" else "Orthanc's REST interface"
        raise ConfigError(f"{named}: url is missing: the address of {what}.")


def _check_folder(source: Folder, context: str) -> None:
    path = Path(source.path)
    if path.is_dir():
        return
    named = f"{context}: source {source.name!r}: {path}"
    if path.exists():
        raise ConfigError(f"{named} is a file, no folder; name the folder that holds it.")
    example = "; `jipflow phantom --out results/example/archive --site example` makes it"
    made = example if path == Path("results/example/archive/dicom") else ""
    raise ConfigError(f"{named} does not exist{made or '; fix its path or mount it'}.")
