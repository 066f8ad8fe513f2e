"""Why a message is refused, by the hub or by a site."""

from __future__ import annotations

from jipflow.reasons import Coded


class Refusal(Coded):
    """Why a message was refused; the codes are stable, `meaning` is for people."""

    NOT_A_FILE = ("not_a_file", "A link, folder or device, not a plain file")
    CLOSED_FILE = ("closed_file", "The account of whoever put it there lets the hub's not read it")
    OVERSIZED_MESSAGE = ("oversized_message", "The file is larger than any message may be")
    NOT_SEALED = ("not_sealed", "The file is not a message sealed by age")
    OTHER_SEAL = ("other_seal", "Sealed for another key, changed on its way, or cut short")
    NOT_A_ZIP = ("not_a_zip", "The file is not a readable zip archive")
    UNSAFE_PATH = ("unsafe_path", "A member's path leads out of the archive")
    DUPLICATE_MEMBER = ("duplicate_member", "Two members have one name")
    UNEXPECTED_MEMBER = ("unexpected_member", "A member that messages of its kind do not have")
    MISSING_MEMBER = ("missing_member", "A member that messages of its kind have is not there")
    COMPRESSED_MEMBER = ("compressed_member", "A compressed or encrypted member")
    OVERSIZED_MEMBER = ("oversized_member", "A member is larger than it may be")
    CORRUPT_MEMBER = ("corrupt_member", "A member's checksum is wrong")
    ZIP_NOT_CANONICAL = ("zip_not_canonical", "The archive holds more than its members")
    MANIFEST_NOT_JSON = ("manifest_not_json", "The manifest is not JSON")
    MANIFEST_NOT_CANONICAL = ("manifest_not_canonical", "The manifest is not canonical JSON")
    MANIFEST_INVALID = ("manifest_invalid", "The manifest does not fit its schema")
    SIGNATURE_INVALID = ("signature_invalid", "The signature is not in its form")
    UNEXPECTED_KIND = ("unexpected_kind", "A kind of message that the sender may not send")
    UNKNOWN_SENDER = ("unknown_sender", "The sender is not known here")
    SENDER_SIGNATURE = ("sender_signature", "The manifest is not signed by the sender's machine")
    APPROVALS_INVALID = ("approvals_invalid", "What persons approved is not in its form")
    APPROVAL_MISSING = ("approval_missing", "Nobody at the site has approved the numbers")
    UNKNOWN_APPROVER = ("unknown_approver", "The approver is not on the roster for this site")
    APPROVAL_SIGNATURE = ("approval_signature", "The approval is not signed by the approver")
    APPROVAL_MISMATCH = ("approval_mismatch", "What was approved is not what was sent")
    APPROVAL_EXCEEDED = ("approval_exceeded", "More was sent than was approved")
    APPROVAL_EXPIRED = ("approval_expired", "The approval was over when the message was made")
    WRONG_RECIPIENT = ("wrong_recipient", "The message is addressed to another")
    WRONG_PROTOCOL = ("wrong_protocol", "The message belongs to another protocol")
    PROTOCOL_CHANGED = ("protocol_changed", "The sender has another text of the protocol")
    EARLY = ("early", "The message belongs to a round that is not open yet")
    LATE = ("late", "The message belongs to a round that is closed")
    OTHER_ROSTER = ("other_roster", "The message was packed for another roster than is in force")
    OUT_OF_THREAD = ("out_of_thread", "The message follows one that is not the last of the thread")
    MISSING_BEFORE = ("missing_before", "The message follows one that has not come")
    ENDED = ("ended", "The rounds of the protocol were ended")
    ROSTER_INVALID = ("roster_invalid", "The roster is not one that may follow")
    STATE_INVALID = ("state_invalid", "What the hub asks for does not fit the protocol")
    END_INVALID = ("end_invalid", "The end is not in its form")
    FILE_CHANGED = ("file_changed", "A file is not the one that the manifest names")
    AGGREGATES_INVALID = ("aggregates_invalid", "The aggregates do not fit their schema")
    DISCLOSURE_INVALID = ("disclosure_invalid", "The disclosure record does not fit its schema")
    HEADER_MISMATCH = ("header_mismatch", "A file contradicts the manifest")
    OUTSIDE_PROTOCOL = ("outside_protocol", "A number that the protocol does not ask for")
    NOT_RELEASED = ("not_released", "The cells are not those that the disclosure record releases")
    CELL_BELOW_MINIMUM = ("cell_below_minimum", "A number rests on too few patients")
    IMPOSSIBLE_CELL = ("impossible_cell", "The numbers of a cell contradict each other")
    REPLAY = ("replay", "The same message came twice")
    ATTEMPT_CONFLICT = ("attempt_conflict", "Two different messages claim one attempt")
    SUPERSEDED = ("superseded", "The site sent a later attempt")
    UNREADABLE = ("unreadable", "The message cannot be read")


class Refused(Exception):
    """A message is refused as a whole.

    Args:
        refusal: the stable code.
        detail: which member, name or number; empty where the code says it all.
    """

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail
