"""The crate of a release: the files that left the site, and nothing else of it.

It follows from the bytes of the message alone, so that whoever has the message makes the same crate
to the last bit. By the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5).
"""

from __future__ import annotations

import io
import json
import zipfile
from datetime import datetime

from jipflow.crates.packing import PROCESS, add_file, entity, new_crate, zipped
from jipflow.exchange.message import FILES, FRAME, Manifest

WORDS = {
    "manifest.json": "what the message says about itself",
    "signature.json": "the signature of the manifest by the site's machine",
    "approvals.json": "who approved what left, signed",
    "aggregates.json": "the numbers, which have passed disclosure control",
    "disclosure.json": "what disclosure control did with each number, by rule",
}
RIGHTS = (
    "Made for the federation that the manifest names; whether others may have it is for the site "
    "and the hub to decide."
)


def release_crate(message: bytes) -> bytes:
    """Return the crate of a release, a zip.

    Args:
        message: of a release, as it was signed and before it was sealed.
    """
    with zipfile.ZipFile(io.BytesIO(message)) as archive:
        files = {name: archive.read(name) for name in (*FRAME, *FILES["release"])}
    manifest = Manifest.model_validate(json.loads(files["manifest.json"]))
    protocol = manifest.protocol
    issued = datetime.fromisoformat(manifest.issued).isoformat()
    crate = new_crate(
        name=f"{protocol.id} {protocol.version}, round {manifest.round}, from {manifest.sender}",
        description=f"What left {manifest.sender} for {manifest.recipient} in round "
        f"{manifest.round}, attempt {manifest.attempt}: aggregates, and no value of a patient.",
        moment=issued,
        rights=RIGHTS,
        profiles=[PROCESS],
    )
    site = entity(crate, f"#{manifest.sender}", "Organization", name=manifest.sender)
    parts = [add_file(crate, name, files[name], description=WORDS[name]) for name in files]
    jipflow = entity(
        crate, "#jipflow", "SoftwareApplication", name="jipflow", version=manifest.version
    )
    packed = entity(
        crate,
        "#release",
        "CreateAction",
        name="release",
        description=f"Packed after approval, of the protocol with the hash {protocol.sha256}.",
        instrument=jipflow,
        agent=site,
        endTime=issued,
        result=parts,
        actionStatus="http://schema.org/CompletedActionStatus",
    )
    root = crate.root_dataset
    root["author"] = root["publisher"] = site
    root["identifier"] = f"jipflow:{protocol.id}-{manifest.sender}-r{manifest.round:02d}"
    root["mentions"] = packed
    return zipped(crate, files)
