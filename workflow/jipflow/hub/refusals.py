"""Why a hub rejects a bundle."""

from __future__ import annotations

from jipflow.reasons import Coded


class Refusal(Coded):
    """Why a bundle was rejected; the codes are stable, `meaning` is for people."""

    NOT_A_FILE = ("not_a_file", "A link, folder or device, not a plain file")
    CLOSED_FILE = ("closed_file", "The account of whoever put it there lets the hub's not read it")
    OVERSIZED_BUNDLE = ("oversized_bundle", "The file is larger than any bundle may be")
    NOT_A_ZIP = ("not_a_zip", "The file is not a readable zip archive")
    UNSAFE_PATH = ("unsafe_path", "A member's path leads out of the archive")
    DUPLICATE_MEMBER = ("duplicate_member", "Two members have one name")
    UNEXPECTED_MEMBER = ("unexpected_member", "A member that bundles do not have")
    MISSING_MEMBER = ("missing_member", "A member that every bundle has is not there")
    COMPRESSED_MEMBER = ("compressed_member", "A compressed or encrypted member")
    OVERSIZED_MEMBER = ("oversized_member", "A member is larger than it may be")
    CORRUPT_MEMBER = ("corrupt_member", "A member's checksum is wrong")
    ZIP_NOT_CANONICAL = ("zip_not_canonical", "The archive holds more than its members")
    MANIFEST_NOT_JSON = ("manifest_not_json", "The manifest is not JSON")
    MANIFEST_NOT_CANONICAL = ("manifest_not_canonical", "The manifest is not canonical JSON")
    MANIFEST_INVALID = ("manifest_invalid", "The manifest does not fit its schema")
    SIGNATURES_INVALID = ("signatures_invalid", "The signatures are not in their form")
    UNKNOWN_SITE = ("unknown_site", "The sender is not on the roster")
    SITE_SIGNATURE = ("site_signature", "The manifest is not signed by the site's machine")
    APPROVALS_INVALID = ("approvals_invalid", "What persons approved is not in its form")
    APPROVAL_MISSING = ("approval_missing", "Nobody at the site has approved the numbers")
    UNKNOWN_APPROVER = ("unknown_approver", "The approver is not on the roster for this site")
    APPROVAL_SIGNATURE = ("approval_signature", "The approval is not signed by the approver")
    APPROVAL_MISMATCH = ("approval_mismatch", "What was approved is not what was sent")
    APPROVAL_EXCEEDED = ("approval_exceeded", "More was sent than was approved")
    APPROVAL_EXPIRED = ("approval_expired", "The approval was over when the message was made")
    WRONG_RECIPIENT = ("wrong_recipient", "The bundle is addressed to another hub")
    WRONG_PROTOCOL = ("wrong_protocol", "The bundle belongs to another protocol")
    PROTOCOL_CHANGED = ("protocol_changed", "The site ran another text of the protocol")
    WRONG_ROUND = ("wrong_round", "The bundle belongs to another round")
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
    UNREADABLE = ("unreadable", "The bundle cannot be read")


class Refused(Exception):
    """A bundle is rejected as a whole.

    Args:
        refusal: the stable code.
        detail: which member, name or number; empty where the code says it all.
    """

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail
