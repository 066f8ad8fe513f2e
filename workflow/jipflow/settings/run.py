"""The effective settings of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jipflow
from jipflow.cases import Wanted
from jipflow.files import atomic_path, canonical_digest
from jipflow.settings.clinical import check_map
from jipflow.settings.complete import complete_types
from jipflow.settings.dependence import DEPENDENCE, PLANNING
from jipflow.settings.digests import named_content, protocol_sha256
from jipflow.settings.export import Heads
from jipflow.settings.folders import results_folder
from jipflow.settings.names import SUBSET_KEYS
from jipflow.settings.part import Part
from jipflow.settings.protocol import (
    CHECKED,
    Disclosure,
    ModelSegmentation,
    Protocol,
    RadiomicsEntry,
    SegmentationSettings,
    annotated,
)
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.reading import (
    Named,
    protocol_ids,
    protocol_path,
    read_protocol,
    read_registries,
    registry_paths,
    with_named,
)
from jipflow.settings.resources import ConfigError, read_mapping
from jipflow.settings.schema import load
from jipflow.settings.site import Site, check_site
from jipflow.settings.training import DESCRIBING

SOURCE = "site configuration"
"""What messages name where nothing else is known."""


OF_A_RUN = {"results", "protocol", "pathvars", *SUBSET_KEYS}
"""Keys of a run's configuration that are not of the site."""


class Settings(Part):
    """The effective settings of a run: checked, every default filled in."""

    site: Site
    """Content of ``site.yaml``."""
    protocol: Protocol
    """Content of the protocol, and of what stands beside it."""
    named: Named
    """What the protocol names."""
    protocol_sha256: str
    """Hash of the protocol and of all it names; see `jipflow.settings.digests`."""
    version: str = jipflow.__version__
    """The jipflow version."""

    @property
    def protocol_id(self) -> str:
        """The protocol's id."""
        return self.protocol.protocol.id

    @property
    def min_patients(self) -> int:
        """Fewest patients behind a released number: the stricter of protocol and site."""
        return self.disclosure.min_patients

    @property
    def disclosure(self) -> Disclosure:
        """What may leave: of each limit the stricter of protocol and site."""
        return self.protocol.disclosure.stricter(**self.site.disclosure.limits())

    @property
    def heads(self) -> Heads:
        """What is done with heads in an export: the stricter of protocol and site."""
        rule = self.protocol.export
        allowed = rule is not None and rule.heads == self.site.export.heads == "deface"
        return "deface" if allowed else "refuse"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that a shard goes through, in their order."""
        return (
            *(("retrieve",) if self.site.archives else ()),
            *("prepare", "segment"),
            *(("annotate",) if annotated(self.protocol.segmentations) else ()),
            *("encode", "measure", "document", "overlay"),
            *(("publish",) if self.site.publish else ()),
        )

    @property
    def uses_gpu(self) -> bool:
        """Whether segmenting takes a GPU: the site gives one, and a model runs."""
        return self.site.processing.device == "cuda" and self.runs_models

    @property
    def runs_models(self) -> bool:
        """Whether a model segments, a container's too, which takes far longer than others."""
        return any(isinstance(spec, ModelSegmentation) for spec in self.protocol.segmentations)

    def inbox(self, results: Path) -> Path:
        """Return the folder that what readers drew for the protocol comes into.

        Args:
            results: the protocol's results folder, below which it is where the site names none.
        """
        named = self.site.annotation.inbox
        return Path(named, self.protocol_id) if named else results / "inbox"

    @property
    def wanted(self) -> dict[str, Wanted]:
        """Which volume of its series each role is, where the protocol says."""
        roles = self.protocol.roles
        return {name: role.volume.wanted for name, role in roles.items() if role.volume}

    def segmentation(self, identifier: str) -> SegmentationSettings:
        """Return the protocol's segmentation of that id."""
        return self.protocol.segmentation(identifier)

    def needed_roles(self, identifier: str) -> set[str]:
        """Return the roles without which a case has no segmentation of that id."""
        return self.protocol.needed_roles(identifier)

    def radiomics(self, entry: RadiomicsEntry) -> Radiomics:
        """Return the radiomics settings of an entry of the protocol."""
        named = entry.settings
        return self.named.parameters[named] if isinstance(named, str) else named

    def sha256(self, *keys: str) -> str:
        """Return the hash of the named parts and of what they name.

        Args:
            keys: of the protocol, or of the site as ``site.<key>``.
        """
        site, protocol = self.site.plain(), self.protocol.plain()
        part = {
            key: site[key.removeprefix("site.")] if key.startswith("site.") else protocol[key]
            for key in keys
        }
        return canonical_digest({"settings": part, **named_content(self.named, keys)})

    def parts(self, stage: str) -> dict[str, str]:
        """Return the hash of each part of the settings that a stage depends on, by its name.

        Args:
            stage: a key of `jipflow.settings.dependence.DEPENDENCE`.

        Raises:
            KeyError: there is no such stage.
        """
        return {key: self._part(key) for key in DEPENDENCE[stage]}

    def _part(self, key: str) -> str:
        if key in _GATHERED:
            return _GATHERED[key](self)
        if key.startswith("training."):
            return _training(self, (key.removeprefix("training."),))
        return self.sha256(key)


def _training(settings: Settings, keys: Iterable[str] | None = None) -> str:
    """Return the hash of keys of the training; without any, of all that change a number."""
    assert settings.protocol.training
    training = settings.protocol.training.plain()
    wanted = training.keys() - DESCRIBING if keys is None else keys
    return canonical_digest({key: training[key] for key in wanted if key in training})


def _sources(settings: Settings, *, archives: bool) -> str:
    """Return the hash of the folders, or of the PACS without how they are used."""
    use = {"parallel", "bytes_per_second", "hours", "timeout", "deletion"}
    site = settings.site
    chosen = [s.plain() for s in site.sources if (s in site.archives) == archives]
    return canonical_digest([{key: s[key] for key in s.keys() - use} for s in chosen])


_GATHERED: dict[str, Callable[[Settings], str]] = {
    "folders": lambda settings: _sources(settings, archives=False),
    "archives": lambda settings: _sources(settings, archives=True),
    "whole protocol": lambda settings: settings.protocol_sha256,
    "whole site": lambda settings: canonical_digest(settings.site.plain()),
    "plan": lambda settings: _training(settings, PLANNING),
    "fit": _training,
    "suv": lambda settings: canonical_digest(
        {k: role.suv_type for k, role in settings.protocol.roles.items() if role.suv_type != "BW"}
    ),
    "clinical": lambda settings: canonical_digest(
        [variable.plain() for variable in settings.protocol.clinical_variables]
    ),
    "clinical source": lambda settings: canonical_digest(
        settings.site.clinical.plain() if settings.site.clinical else {}
    ),
    "consent list": lambda settings: canonical_digest(
        settings.site.consent.plain()
        if settings.site.consent and settings.protocol.cohort.consent
        else {}
    ),
    "volumes": lambda settings: canonical_digest(
        {k: role.volume.plain() for k, role in settings.protocol.roles.items() if role.volume}
    ),
}


def load_settings(config: Mapping[str, Any], source: str = SOURCE) -> Settings:
    """Check the configuration of a run at a site and complete it.

    Args:
        config: content of ``site.yaml`` and the key ``protocol``: an id under
            ``config/protocols`` or the path of a YAML file. ``results`` and what names a subset of
            the cases are ignored here.
        source: what the configuration was read from, for messages.

    Raises:
        ConfigError: something is wrong.
    """
    reference = config.get("protocol")
    if reference is None:
        raise ConfigError(
            "No protocol is named. Add --config protocol=<id or path>; "
            f"the ids are {', '.join(protocol_ids())}."
        )
    if isinstance(reference, Mapping):
        # A protocol in place of the site's file has a part of that name.
        load(Site, config, source)
    path = protocol_path(str(reference))
    given = {key: value for key, value in config.items() if key not in OF_A_RUN}
    site = load(Site, given, source, ("protocol", "results", *SUBSET_KEYS))
    protocol, named = read_protocol(path, site.registry if site.models else None)
    check_site(site, source)
    _check_clinical(site, protocol, source)
    _check_consent(site, protocol, source)
    return _settings(site.located(), protocol, named)


def load_site(path: Path, results: Path | None = None) -> tuple[Site, Path]:
    """Read a site's configuration for a command that is of no protocol.

    Args:
        path: ``site.yaml``.
        results: folder for the results of all protocols; by default the one that it names.

    Returns:
        The site, and the folder.

    Raises:
        ConfigError: something is wrong; names the key and the fix.
    """
    content = read_mapping(path)
    folder = results or Path(results_folder(content))
    own = {key: value for key, value in content.items() if key not in OF_A_RUN}
    return load(Site, own, str(path)), folder


def _check_clinical(site: Site, protocol: Protocol, source: str) -> None:
    variables = protocol.clinical_variables
    if variables and site.clinical is None:
        raise ConfigError(
            f"{source}: the protocol asks for clinical variables "
            f"({', '.join(variable.name for variable in variables)}); say by `clinical` where they "
            "are, see docs/clinical.md."
        )
    if variables and site.clinical is not None:
        check_map(site.clinical, variables)


def _check_consent(site: Site, protocol: Protocol, source: str) -> None:
    rule = protocol.cohort.consent
    if rule is not None and site.consent is None:
        raise ConfigError(
            f"{source}: the protocol takes only patients who have consented to {rule.scope!r}; say "
            "by `consent` where the site's list is, see docs/consent.md."
        )


def settings_of(
    site: Mapping[str, Any], protocol: Mapping[str, Any], registries: Iterable[Path] = ()
) -> Settings:
    """Return the settings of a site and a protocol that stand in no file.

    Folders of the site need not be there.

    Args:
        site: as ``site.yaml``.
        protocol: as a protocol's file.
        registries: of the models that it names; without any those of every run.

    Raises:
        ConfigError: something is wrong.
    """
    complete_types()
    models = read_registries(registries or registry_paths())
    typed = load(Protocol, protocol, "protocol")
    completed, named = with_named(typed, models, "protocol", Path())
    return _settings(load(Site, site, SOURCE), completed, named)


def _settings(site: Site, protocol: Protocol, named: Named) -> Settings:
    digest = protocol_sha256(protocol, named)
    return Settings(site=site, protocol=protocol, named=named, protocol_sha256=digest)


def settings_text(settings: Settings) -> str:
    """Return the effective settings as JSON.

    Keys keep their order, in which features are named in messages.
    """
    return json.dumps(settings.plain(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_settings(path: Path, settings: Settings) -> None:
    """Write the effective settings as by `settings_text`; an unchanged file is left as it is."""
    text = settings_text(settings)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")


def read_settings(path: Path) -> Settings:
    """Read settings written as by `settings_text`."""
    complete_types()
    return Settings.model_validate_json(Path(path).read_bytes(), context=CHECKED)
