"""What a site's first settings say: the answers of a person, and what the machine has."""

from __future__ import annotations

import re
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jipflow.settings.folders import checked_folder
from jipflow.settings.part import ID_PATTERN
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import load_site
from jipflow.settings.schema import load
from jipflow.settings.site import Site, check_site

RESERVED = {"none"}
"""What `snakemake --profile` takes for no profile."""

HEAD = """\
# Settings of the site {site}, written by `jipflow site init`. docs/site-reference.md has all keys.
# What the hub says of itself stands here, too, before anything can be sent:
#
#   hub: {{id: <its id>, key: "ed25519:<its public key>"}}
#
"""


@dataclass(frozen=True)
class Answers:
    """What only a person knows.

    Attributes:
        site: short name of the site.
        name: of the hospital.
        folder: for settings, secrets, results and messages.
        images: folder with DICOM files.
        pacs: ``host:port`` of DIMSE, or an address of DICOMweb.
        called_aet: title of the PACS.
        calling_aet: our title there.
        protocol: id or path; None to name it at each run.
    """

    site: str
    name: str
    folder: Path
    images: Path | None = None
    pacs: str | None = None
    called_aet: str | None = None
    calling_aet: str = "JIPFLOW"
    protocol: str | None = None

    @property
    def file(self) -> Path:
        """The site's settings."""
        return self.folder / "site.yaml"

    @property
    def results(self) -> Path:
        """The folder for results of all protocols."""
        return self.folder / "results"

    def content(self, *, cuda: bool) -> dict[str, Any]:
        """Return the settings.

        Args:
            cuda: whether neural networks run on a GPU.
        """
        secrets = self.folder / "secrets"
        content: dict[str, Any] = {"results": str(self.results)}
        if self.protocol is not None:
            content["protocol"] = self.protocol
        content["site"] = {"id": self.site, "name": self.name}
        content["sources"] = self.sources()
        content["identity"] = {
            "secret_file": str(secrets / "identity.key"),
            "signing_key_file": str(secrets / "site.key"),
            "ledger_folder": str(secrets / "ledger"),
            "audit_file": str(secrets / "audit.jsonl"),
        }
        if cuda:
            content["processing"] = {"device": "cuda"}
        return content

    def sources(self) -> list[dict[str, Any]]:
        """Return the sources: the folder, the PACS, or both."""
        found: list[dict[str, Any]] = []
        if self.images is not None:
            found.append({"name": "images", "kind": "folder", "path": str(self.images)})
        if self.pacs is not None and is_dicomweb(self.pacs):
            found.append({"name": "pacs", "kind": "dicomweb", "url": self.pacs})
        elif self.pacs is not None:
            host, _, port = self.pacs.rpartition(":")
            titles = {"called_aet": self.called_aet, "calling_aet": self.calling_aet}
            address = {"host": host, "port": int(port)}
            found.append({"name": "pacs", "kind": "dimse", **address, **titles})
        return found

    def checked(self) -> Site:
        """Return the settings, typed.

        Raises:
            ConfigError: one of them cannot be.
        """
        content = self.content(cuda=False)
        checked_folder(content.pop("results"))
        content.pop("protocol", None)
        site = load(Site, content, "site init")
        check_site(site, "site init")
        if self.images is not None and self.folder.resolve().is_relative_to(self.images.resolve()):
            raise ConfigError(
                f"--folder: {self.folder} lies in the folder of the images, whose catalog would "
                "count the results; name another."
            )
        return site


def settings_there(answers: Answers) -> tuple[Site, Path] | None:
    """Return the settings that a site has already, and its results folder; None where it has none.

    They are a person's once they are written, who adds what the hub says or who has consented, so
    that they are never replaced.

    Raises:
        ConfigError: the file is of another site, or cannot be read as settings.
    """
    if not answers.file.exists():
        return None
    with chdir(answers.folder):
        site, results = load_site(answers.file)
        check_site(site, str(answers.file))
    if site.site.id != answers.site:
        raise ConfigError(
            f"{answers.file} has the settings of site {site.site.id!r}, which are never replaced; "
            "name another --folder, or its --id."
        )
    identity = site.identity
    located = {
        key: str(answers.folder / path)
        for key in ("secret_file", "signing_key_file")
        if (path := getattr(identity, key))
    }
    kept = site.model_copy(update={"identity": identity.model_copy(update=located)})
    return kept, answers.folder / results


def site_text(answers: Answers, *, cuda: bool) -> str:
    """Return the file of a site's settings.

    Args:
        answers: of a person.
        cuda: whether neural networks run on a GPU.
    """
    content = answers.content(cuda=cuda)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return HEAD.format(site=answers.site) + text


def why_no_id(text: str) -> str:
    """Return why a text cannot be the short name of a site; empty if it can."""
    if text in RESERVED:
        return f"{text!r} means no profile to Snakemake; take another"
    if not re.fullmatch(ID_PATTERN, text):
        return f"{text!r} is no short name: take small letters, digits and hyphens, at most 40"
    return ""


def is_dicomweb(pacs: str) -> bool:
    """Return whether the address of a PACS is one of DICOMweb; that of DIMSE is a host's name."""
    return pacs.startswith(("http://", "https://"))


def why_no_pacs(text: str) -> str:
    """Return why a text is no address of a PACS; empty if it is one."""
    host, _, port = text.rpartition(":")
    by_dimse = re.fullmatch(r"[A-Za-z0-9._:-]+", host) and re.fullmatch(r"\d{1,5}", port)
    if re.fullmatch(r"https?://[^\s@?#]+", text) or (by_dimse and 0 < int(port) < 65536):
        return ""
    return f"{text!r} is no address of a PACS: write host:port, or https://host/path of DICOMweb"
