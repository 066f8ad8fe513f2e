"""What an audit trail speaks of: a closed list of events, and the facts of each.

Facts are counts, names of sources and protocols, hashes, keys, and the names of the persons who
decided. There is no field that a patient's identifier would fit into, and pseudonyms stand there of
`PseudonymResolved` alone, which have been somebody's question.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from jipflow.exchange.message import Round, Sha256, Time
from jipflow.privacy.audit.at_hub import (
    MessageRefused,
    MessageWritten,
    ReleaseAccepted,
    RosterChanged,
    RoundMerged,
    RoundOpened,
    RoundsEnded,
)
from jipflow.privacy.audit.decisions import Decision, Revocation
from jipflow.privacy.audit.facts import (
    ApprovedBy,
    Count,
    Facts,
    Person,
    Shard,
    SignatureText,
    Sources,
)
from jipflow.settings.hub import PublicKey
from jipflow.settings.part import Id, Part
from jipflow.words import number_of


class Event(StrEnum):
    """What can happen."""

    SOURCES_CATALOGUED = "sources_catalogued"
    ARCHIVES_QUERIED = "archives_queried"
    SERIES_RETRIEVED = "series_retrieved"
    CLINICAL_READ = "clinical_read"
    CONSENT_READ = "consent_read"
    OBJECTS_PUBLISHED = "objects_published"
    DATA_EXPORTED = "data_exported"
    RELEASE_PACKED = "release_packed"
    APPROVAL_REVOKED = "approval_revoked"
    PATIENTS_ERASED = "patients_erased"
    PSEUDONYM_RESOLVED = "pseudonym_resolved"
    LEDGER_RESUMED = "ledger_resumed"
    ROSTER_IN_FORCE = "roster_in_force"
    SECRET_IN_USE = "secret_in_use"
    ROSTER_CHANGED = "roster_changed"
    ROUND_OPENED = "round_opened"
    ROUNDS_ENDED = "rounds_ended"
    MESSAGE_WRITTEN = "message_written"
    RELEASE_ACCEPTED = "release_accepted"
    MESSAGE_REFUSED = "message_refused"
    ROUND_MERGED = "round_merged"
    KEY_CHANGED = "key_changed"
    LINE_CUT = "line_cut"
    TRAIL_RESUMED = "trail_resumed"


class FolderRead(Part):
    """What a folder source held."""

    files: Count
    dicom_files: Count


class SourcesCatalogued(Facts):
    """The headers of the files of the site's folders were read."""

    sources: dict[Id, FolderRead]
    series: Count
    sha256: Sha256
    """Of the table of series."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        read = ", ".join(
            f"{name} ({each.dicom_files} of {each.files} files are DICOM)"
            for name, each in self.sources.items()
        )
        return f"headers read of {read or 'no folder'}: {self.series} series"


class ArchivesQueried(Facts):
    """The site's PACS were asked for the series of a protocol."""

    subject: ClassVar[tuple[str, ...]] = ("protocol",)

    protocol: Id
    sources: Sources
    series: Count
    """That they answered with."""
    instances: Count
    """That were planned to be retrieved."""
    sha256: Sha256
    """Of the table of series."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"{', '.join(self.sources)} asked for {self.protocol}: {self.series} series, "
            f"{self.instances} instances to retrieve"
        )


class SeriesRetrieved(Facts):
    """Images of a shard were retrieved from the site's PACS."""

    subject: ClassVar[tuple[str, ...]] = ("protocol", "shard")

    protocol: Id
    shard: Shard
    sources: Sources
    series: Count
    failed: Count
    """Items of cases that did not come."""
    sha256: Sha256
    """Of the table of the shard's instances."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"{self.series} series of shard {self.shard} of {self.protocol} retrieved from "
            f"{', '.join(self.sources)}, {self.failed} items did not come"
        )


class ClinicalRead(Facts):
    """Clinical data were read for the cases of a protocol."""

    subject: ClassVar[tuple[str, ...]] = ("protocol",)

    protocol: Id
    kind: Id
    """Of the source, as in the site's settings."""
    cases: Count
    variables: Count
    values: Count
    """How many were found."""
    files: list[Sha256]
    """Hashes of the files that were read: the map, the table, the link of patients."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"clinical data ({self.kind}) read for {self.protocol}: {self.variables} variables of "
            f"{self.cases} cases, {self.values} values"
        )


class ConsentRead(Facts):
    """The list of consents was read for the cohort of a protocol."""

    subject: ClassVar[tuple[str, ...]] = ("protocol",)

    protocol: Id
    sha256: Sha256
    """Of the list."""
    patients: Count
    """In the list."""
    left_out: Count
    """Patients of the catalog who are left out by it."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"consents of {self.patients} patients read for {self.protocol}: {self.left_out} "
            "patients left out"
        )


class ObjectsPublished(Facts):
    """DICOM objects of a shard were sent to a PACS of the site."""

    subject: ClassVar[tuple[str, ...]] = ("protocol", "shard", "to")

    protocol: Id
    shard: Shard
    to: Id
    """Name of the source."""
    objects: Count
    """That the PACS has acknowledged."""
    failed: Count
    sha256: Sha256
    """Of the receipts."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"{self.objects} objects of shard {self.shard} of {self.protocol} sent to {self.to}, "
            f"{self.failed} were not taken"
        )


class DataExported(Facts):
    """Data of a protocol were written for another system of the site."""

    subject: ClassVar[tuple[str, ...]] = ("protocol", "format")

    protocol: Id
    format: Id
    """What was written, such as ``omop``."""
    files: Count
    items: Count
    """Rows of tables, or images."""
    patients: Count | None
    """Of whom there are any; None where the export does not count them."""
    sha256: Sha256
    """Of the canonical JSON of the hash by its name of each file, or of the export's report."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        of = "" if self.patients is None else f" of {number_of(self.patients, 'patient')}"
        what = f"{number_of(self.files, 'file')}, {self.items} rows or images{of}"
        return f"{self.protocol} exported as {self.format}: {what}"


class ReleasePacked(Facts):
    """What persons had approved was packed, and may leave."""

    subject: ClassVar[tuple[str, ...]] = ("ledger",)

    ledger: Sha256
    """Hash of its entry in the ledger."""
    number: Annotated[int, Field(ge=1)]
    """Of the entry."""
    written: Time
    """When the entry was written."""
    protocol: Id
    protocol_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    protocol_sha256: Sha256
    round: Round
    attempt: Annotated[int, Field(ge=1)]
    recipient: Id
    cells: Count
    bundle: Sha256
    approvals: Annotated[list[ApprovedBy], Field(min_length=1)]

    def sentence(self) -> str:
        """Return the facts for a person."""
        persons = " and ".join(f"{each.person} on {each.issued[:10]}" for each in self.approvals)
        return (
            f"{number_of(self.cells, 'cell')} of {self.protocol} {self.protocol_version} packed "
            f"for {self.recipient}, round {self.round}, attempt {self.attempt}, "
            f"approved by {persons}"
        )


class ApprovalRevoked(Facts):
    """Nothing leaves any more by what a person had approved."""

    revocation: Revocation
    signature: SignatureText
    """By the person's key, of the revocation's canonical JSON."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        made = self.revocation
        later = f" up to round {made.last_round}" if made.last_round > made.round else ""
        return (
            f"approval of {made.protocol}, round {made.round}{later}, revoked by {made.person} on "
            f"{made.issued[:10]}: {made.reason}"
        )


class PatientsErased(Facts):
    """Data of patients were erased; of whom is not kept."""

    subject: ClassVar[tuple[str, ...]] = ("erasure",)

    erasure: Sha256
    """Drawn at random for each erasure, so that one that is tried again is no other."""
    protocols: list[Id]
    patients: Count
    cases: Count
    files: Count
    listed: Count
    """Patients on the list of who was erased, since then."""
    list_sha256: Sha256
    """Of the list, whose lines are keyed hashes."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        return (
            f"{number_of(self.patients, 'patient')} erased: {number_of(self.cases, 'case')}, "
            f"{number_of(self.files, 'file')} of "
            f"{', '.join(self.protocols) or 'no protocol'}"
        )


class PseudonymResolved(Facts):
    """Somebody asked who or what is behind pseudonyms or codes of messages, and was answered."""

    subject: ClassVar[tuple[str, ...]] = ("use",)

    use: Sha256
    """Drawn at random for each use, so that none is a repetition."""
    codes: list[Annotated[str, Field(pattern=r"^[a-z2-7]{8,32}$")]]
    unknown: Count
    """What was typed and is behind nothing; it may have been a name."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        unknown = f", and {self.unknown} that are unknown" if self.unknown else ""
        return f"asked who or what is behind {', '.join(self.codes) or 'no known code'}{unknown}"


class LedgerResumed(Facts):
    """A person has let a ledger go on that was not whole."""

    subject: ClassVar[tuple[str, ...]] = ("ledger",)

    ledger: Sha256
    """Hash of the entry that says so."""
    number: Annotated[int, Field(ge=1)]
    written: Time
    person: Person
    key: PublicKey

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"ledger resumed by {self.person} on {self.written[:10]}, entry {self.number}"


class RosterInForce(Facts):
    """A roster of the hub came into force."""

    subject: ClassVar[tuple[str, ...]] = ("protocol", "hub")

    protocol: Id
    hub: Id
    number: Annotated[int, Field(ge=1)]
    sites: Count
    sha256: Sha256

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"roster {self.number} of {self.hub} for {self.protocol}: {self.sites} sites"


class SecretInUse(Facts):
    """The secret behind the pseudonyms: the first one, or another one than before."""

    fingerprint: Sha256

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"pseudonyms made with the secret of fingerprint {self.fingerprint[:16]}"


class KeyChanged(Facts):
    """From this line on another key signs."""

    old: PublicKey
    new: PublicKey

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"the key that signs was {self.old}, and is {self.new}"


class LineCut(Facts):
    """Before this line stand bytes of a writer that was cut off."""

    bytes: Annotated[int, Field(ge=1)]
    sha256: Sha256

    def sentence(self) -> str:
        """Return the facts for a person."""
        return f"{self.bytes} bytes before this line are of a writer that was cut off"


class TrailResumed(Facts):
    """A person has let the trail go on from this line, for what stands before is not whole."""

    decision: Decision
    signature: SignatureText
    """By the person's key, of the decision's canonical JSON."""

    def sentence(self) -> str:
        """Return the facts for a person."""
        made = self.decision
        return f"trail resumed by {made.person}: {made.reason} What was wrong: {made.found}"


FACTS: Mapping[Event, type[Facts]] = {
    Event.SOURCES_CATALOGUED: SourcesCatalogued,
    Event.ARCHIVES_QUERIED: ArchivesQueried,
    Event.SERIES_RETRIEVED: SeriesRetrieved,
    Event.CLINICAL_READ: ClinicalRead,
    Event.CONSENT_READ: ConsentRead,
    Event.OBJECTS_PUBLISHED: ObjectsPublished,
    Event.DATA_EXPORTED: DataExported,
    Event.RELEASE_PACKED: ReleasePacked,
    Event.APPROVAL_REVOKED: ApprovalRevoked,
    Event.PATIENTS_ERASED: PatientsErased,
    Event.PSEUDONYM_RESOLVED: PseudonymResolved,
    Event.LEDGER_RESUMED: LedgerResumed,
    Event.ROSTER_IN_FORCE: RosterInForce,
    Event.SECRET_IN_USE: SecretInUse,
    Event.ROSTER_CHANGED: RosterChanged,
    Event.ROUND_OPENED: RoundOpened,
    Event.ROUNDS_ENDED: RoundsEnded,
    Event.MESSAGE_WRITTEN: MessageWritten,
    Event.RELEASE_ACCEPTED: ReleaseAccepted,
    Event.MESSAGE_REFUSED: MessageRefused,
    Event.ROUND_MERGED: RoundMerged,
    Event.KEY_CHANGED: KeyChanged,
    Event.LINE_CUT: LineCut,
    Event.TRAIL_RESUMED: TrailResumed,
}
"""What is stated of each event."""

AT_HUB = frozenset(
    {
        Event.ROSTER_CHANGED,
        Event.ROUND_OPENED,
        Event.ROUNDS_ENDED,
        Event.MESSAGE_WRITTEN,
        Event.RELEASE_ACCEPTED,
        Event.MESSAGE_REFUSED,
        Event.ROUND_MERGED,
    }
)
"""What happens at a hub alone."""
