"""Site and protocol settings: read, checked against their schemas, completed with defaults."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import jsonschema
import yaml

import jipflow
from jipflow.files import canonical_digest, json_text, read_json, write_json

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = ROOT / "workflow" / "schemas"
RESOURCES = ROOT / "workflow" / "resources"
PROTOCOLS = ROOT / "config" / "protocols"
MODELS = ROOT / "config" / "models.yaml"


class ConfigError(Exception):
    """A setting is wrong; the message names the file, the key and the mend."""


@dataclass(frozen=True)
class Settings:
    """The effective settings of a run: validated, every default filled in.

    Attributes:
        site: content of ``site.yaml`` (schema: ``site.schema.yaml``).
        protocol: content of the protocol (schema: ``protocol.schema.yaml``).
        protocol_sha256: hash of the protocol and of all it names; see `protocol_sha256`.
        version: the jipflow version.
    """

    site: dict[str, Any]
    protocol: dict[str, Any]
    protocol_sha256: str
    version: str = jipflow.__version__

    @property
    def protocol_id(self) -> str:
        """The protocol's id."""
        return str(self.protocol["protocol"]["id"])

    @property
    def min_patients(self) -> int:
        """Fewest patients behind a released number: the stricter of protocol and site."""
        return int(
            max(
                self.protocol["disclosure"]["min_patients"], self.site["disclosure"]["min_patients"]
            )
        )

    @property
    def uses_gpu(self) -> bool:
        """Whether segmenting takes a GPU: the site gives one, and a model runs."""
        return self.site["processing"]["device"] == "cuda" and any(
            "model" in spec for spec in self.protocol["segmentations"]
        )

    def inbox(self, results: Path) -> Path:
        """Return the folder that what readers drew for the protocol comes into.

        Args:
            results: the protocol's results folder, below which it is where the site names none.
        """
        named = self.site["annotation"]["inbox"]
        return Path(named, self.protocol_id) if named else results / "inbox"

    def segmentation(self, identifier: str) -> dict[str, Any]:
        """Return the protocol's segmentation of that id."""
        return next(s for s in self.protocol["segmentations"] if s["id"] == identifier)

    def needed_roles(self, identifier: str) -> set[str]:
        """Return the roles without which a case has no segmentation of that id.

        Those of the segmentations that it is made from are among them. A person needs no proposal.
        """
        spec = self.segmentation(identifier)
        if spec["engine"] == "annotated":
            return {spec["role"]}
        needed = [self.needed_roles(other) for other in input_segmentations(spec)]
        return set(input_roles(spec)).union(*needed)

    def part(self, *keys: str) -> dict[str, Any]:
        """Return the named parts of the protocol, or of the site as ``site.<key>``."""
        return {
            key: self.site[key[5:]] if key.startswith("site.") else self.protocol[key]
            for key in keys
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the content that `write_settings` writes."""
        return {
            "site": self.site,
            "protocol": self.protocol,
            "protocol_sha256": self.protocol_sha256,
            "version": self.version,
        }


def load_settings(config: Mapping[str, Any]) -> Settings:
    """Check the configuration of a run at a site and complete it.

    Args:
        config: content of ``site.yaml`` and the key ``protocol``: an id under
            ``config/protocols`` or the path of a YAML file. ``results`` is ignored here.

    Raises:
        ConfigError: something is wrong.
    """
    config = dict(config)
    config.pop("results", None)
    config.pop("pathvars", None)
    reference = config.pop("protocol", None)
    if reference is None:
        raise ConfigError(
            "No protocol is named. Add --config protocol=<id or path>; "
            f"the ids are {', '.join(protocol_ids())}."
        )
    path = protocol_path(str(reference))
    protocol = read_protocol(path)
    site = validate(config, "site", "site configuration")
    _check_site(site)
    return Settings(site, protocol, protocol_sha256(protocol))


def read_protocol(path: Path) -> dict[str, Any]:
    """Read a protocol, check it, and complete it with defaults.

    Raises:
        ConfigError: something is wrong.
    """
    protocol = validate(read_yaml(path), "protocol", str(path))
    for segmentation in protocol["segmentations"]:
        if segmentation["engine"] == "totalsegmentator":
            from jipflow.models.tasks import complete_segments

            complete_segments(segmentation, f"{path}: segmentation {segmentation['id']!r}")
    check_protocol(protocol, str(path))
    return protocol


def protocol_ids() -> list[str]:
    """Return the ids of the protocols under ``config/protocols``."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def protocol_path(reference: str) -> Path:
    """Return the file of a protocol given by id or path.

    Raises:
        ConfigError: there is none.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", reference):
        path = PROTOCOLS / f"{reference}.yaml"
        if path.is_file():
            return path
    path = Path(reference)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    near = difflib.get_close_matches(reference, protocol_ids(), n=1)
    raise ConfigError(
        f"There is no protocol {reference!r}. "
        + (f"Did you mean {near[0]!r}? " if near else "")
        + f"Name the path of a YAML file or one of: {', '.join(protocol_ids())}."
    )


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: it is missing or not YAML.
    """
    try:
        # The parser in C is four times as fast and as safe.
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None


def read_models() -> dict[str, Any]:
    """Read the registry of models, with every default filled in.

    Raises:
        ConfigError: it is missing or not valid.
    """
    models: dict[str, Any] = validate(read_yaml(MODELS), "models", str(MODELS))["models"]
    return models


def validate(content: Any, schema: str, source: str) -> dict[str, Any]:
    """Check content against a schema and return a copy with every default filled in.

    Args:
        content: what was read.
        schema: name of a file ``workflow/schemas/<schema>.schema.yaml``.
        source: what the content was read from, for the message.

    Raises:
        ConfigError: the content does not fit; names the key and the mend.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source} must be a mapping of keys to values.")
    completed: dict[str, Any] = _plain(content)
    rules = read_yaml(SCHEMAS / f"{schema}.schema.yaml")
    _lift_defaults(rules, rules.get("$defs", {}))
    validator = _DefaultingValidator(
        rules,
        format_checker=jsonschema.FormatChecker(),
    )
    errors = sorted(validator.iter_errors(completed), key=lambda e: (len(e.absolute_path), str(e)))
    if errors:
        lines = dict.fromkeys(f"{source}: {_explain(error)}" for error in errors)
        raise ConfigError("\n".join(list(lines)[:5]))
    return completed


def _plain(content: Any) -> Any:
    """Copy nested mappings and sequences as plain dicts and lists."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content


def _lift_defaults(node: Any, definitions: Mapping[str, Any]) -> None:
    """Put the default of what a ``$ref`` names beside the ``$ref``, where it is looked for."""
    if isinstance(node, list):
        for child in node:
            _lift_defaults(child, definitions)
    if not isinstance(node, dict):
        return
    for child in node.values():
        _lift_defaults(child, definitions)
    if isinstance(node.get("$ref"), str):
        definition = definitions.get(node["$ref"].removeprefix("#/$defs/"), {})
        if "default" in definition:
            node.setdefault("default", definition["default"])


def _fill_defaults(
    validator: Any, properties: Any, instance: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, dict):
        for key, subschema in properties.items():
            if isinstance(subschema, dict) and "default" in subschema:
                instance.setdefault(key, _plain(subschema["default"]))
    yield from jsonschema.Draft202012Validator.VALIDATORS["properties"](
        validator, properties, instance, schema
    )


_DefaultingValidator: Any = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"properties": _fill_defaults}
)


def _explain(error: jsonschema.ValidationError) -> str:
    """Turn a schema error into one sentence that names the key and the mend."""
    where = error.json_path.removeprefix("$").removeprefix(".") or "the top level"
    schema: Any = error.schema
    instance: Any = error.instance
    expected: Any = error.validator_value
    hint = f" ({schema['description']})" if "description" in schema else ""
    if error.validator == "additionalProperties":
        known = [str(key) for key in schema.get("properties", {})]
        unknown = sorted(set(instance) - set(known))
        near = difflib.get_close_matches(unknown[0], known, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
        return f"unknown key {unknown[0]!r} at {where}; {mend}"
    if error.validator == "required":
        missing = next(key for key in expected if key not in instance)
        return f"key {missing!r} is missing at {where}; add it."
    if error.validator in {"enum", "const"}:
        allowed = expected if error.validator == "enum" else [expected]
        return f"{where} is {instance!r}; it must be one of: {', '.join(map(str, allowed))}.{hint}"
    return f"{where}: {error.message}.{hint}"


def _check_site(site: dict[str, Any]) -> None:
    names = [source["name"] for source in site["sources"]]
    _check_unique(names, "site configuration", "sources")
    for source in site["sources"]:
        if source["kind"] == "folder" and not Path(source["path"]).is_dir():
            raise ConfigError(
                f"site configuration: source {source['name']!r}: the folder {source['path']} does "
                "not exist or is not a folder; mend its path or mount it."
            )
    archives = [source["name"] for source in site["sources"] if source["kind"] != "folder"]
    if site["publish"] is not None and site["publish"]["to"] not in archives:
        raise ConfigError(
            f"site configuration: publish.to: {site['publish']['to']!r} is not a source of kind "
            f"dicomweb or dimse; there are: {', '.join(archives) or 'none'}."
        )


def _check_unique(names: list[str], source: str, key: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: {key}: the name {name!r} is used twice; rename one.")


def check_protocol(protocol: dict[str, Any], source: str) -> None:
    """Check what a schema cannot say: references between the parts of a protocol.

    Raises:
        ConfigError: a part names something that is not there, or an expression is not valid.
    """
    roles = protocol["cohort"]["case"]["roles"]
    segmentations = protocol["segmentations"]
    _check_unique([s["id"] for s in segmentations], source, "segmentations")
    _check_unique([a["id"] for a in protocol["analyses"]], source, "analyses")
    _check_filters(protocol, source)
    terms = read_yaml(RESOURCES / "terms.yaml")
    for segmentation in segmentations:
        where = f"{source}: segmentation {segmentation['id']!r}"
        if segmentation["role"] not in roles:
            raise ConfigError(
                f"{where}: role {segmentation['role']!r} is not among the roles of the cohort: "
                f"{', '.join(roles)}."
            )
        for role in segmentation.get("inputs", []):
            if role not in roles:
                raise ConfigError(
                    f"{where}: inputs: role {role!r} is not among the roles of the cohort: "
                    f"{', '.join(roles)}."
                )
        for needed in input_segmentations(segmentation):
            if needed not in {s["id"] for s in segmentations} - {segmentation["id"]}:
                raise ConfigError(f"{where}: there is no other segmentation {needed!r}.")
            if needed in {s["id"] for s in annotated(segmentations)}:
                raise ConfigError(
                    f"{where}: needs {needed!r}, which a person makes after all others are made; "
                    "name a segmentation of another engine."
                )
        _check_places(segmentation, segmentations, where)
        _check_ranges(segmentation, where)
        _check_may_be_empty(segmentation, where)
        _check_unique([s["name"] for s in segmentation["segments"]], where, "segments")
        if "model" in segmentation:
            _check_model(segmentation, where)
        _check_disagreement(segmentation, where)
        for segment in segmentation["segments"]:
            if segment["term"] not in terms:
                raise ConfigError(
                    f"{where}: segment {segment['name']!r}: there is no term {segment['term']!r}; "
                    f"add it with its codes to workflow/resources/terms.yaml or use one of: "
                    f"{', '.join(terms)}."
                )
            try:
                re.compile(segment.get("match", ""))
            except re.error as error:
                raise ConfigError(
                    f"{where}: segment {segment['name']!r}: match is not a regular expression: "
                    f"{error}."
                ) from None
        if segmentation["engine"] == "annotated":
            _check_annotated(segmentation, segmentations, where)
    _check_training(protocol, source)
    try:
        in_order(segmentations)
    except CycleError as error:
        raise ConfigError(
            f"{source}: segmentations need each other in a circle: {', '.join(error.args[1])}."
        ) from None
    by_id = {s["id"]: s for s in segmentations}
    measured = [entry["segmentation"] for entry in protocol["radiomics"]]
    for name in measured:
        if measured.count(name) > 1:
            raise ConfigError(
                f"{source}: radiomics: segmentation {name!r} is measured twice; keep one entry."
            )
    for entry in protocol["radiomics"]:
        where = f"{source}: radiomics of {entry['segmentation']!r}"
        if entry["segmentation"] not in by_id:
            raise ConfigError(
                f"{where}: there is no such segmentation; there are: {', '.join(by_id)}."
            )
        if entry["role"] != by_id[entry["segmentation"]]["role"]:
            raise ConfigError(
                f"{where}: role {entry['role']!r} must be the role that was segmented, "
                f"{by_id[entry['segmentation']]['role']!r}."
            )
        radiomics_settings(entry["settings"], where)
    for analysis in protocol["analyses"]:
        where = f"{source}: analysis {analysis['id']!r}"
        edges = analysis.get("edges", [])
        if edges and analysis["kind"] != "histogram":
            raise ConfigError(f"{where}: edges belong to a histogram; remove them.")
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise ConfigError(f"{where}: edges must rise strictly.")
        for variable in analysis["variables"]:
            if variable.split(".")[0] not in roles:
                raise ConfigError(
                    f"{where}: variable {variable!r} must start with a role: {', '.join(roles)}."
                )


def _check_annotated(
    spec: Mapping[str, Any], segmentations: Sequence[Mapping[str, Any]], where: str
) -> None:
    """Check that what a person gets to see, and sends back, goes by the names of the protocol."""
    if spec["when"] == "flagged" and "proposal" not in spec:
        raise ConfigError(
            f"{where}: `when: flagged` needs a proposal whose flags decide; name one or set "
            "`when: always`."
        )
    if "proposal" not in spec:
        return
    proposal = next(s for s in segmentations if s["id"] == spec["proposal"])
    if proposal["role"] != spec["role"]:
        raise ConfigError(
            f"{where}: role {spec['role']!r} must be that of its proposal, {proposal['role']!r}."
        )
    proposed = [segment["name"] for segment in proposal["segments"]]
    for segment in spec["segments"]:
        if segment["name"] not in proposed:
            raise ConfigError(
                f"{where}: segment {segment['name']!r}: the proposal {spec['proposal']!r} has no "
                f"segment of that name; it has: {', '.join(proposed)}."
            )
        if not re.fullmatch(returned_as(segment), segment["name"]):
            raise ConfigError(
                f"{where}: segment {segment['name']!r}: match must allow the name itself, by which "
                "the proposal shows it; add it as another alternative."
            )


def annotated(segmentations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the segmentations that a person makes."""
    return [spec for spec in segmentations if spec["engine"] == "annotated"]


def automatic(segmentations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the segmentations that are made without a person."""
    return [spec for spec in segmentations if spec["engine"] != "annotated"]


NOTHING = "nothing.txt"
"""Name of the file by which a person says that there is nothing to mark."""


def returned_as(segment: Mapping[str, Any]) -> str:
    """Return the regular expression of the labels by which a segment comes back from a person."""
    return str(segment.get("match") or re.escape(segment["name"]))


def _check_training(protocol: dict[str, Any], source: str) -> None:
    training = protocol.get("training")
    if training is None:
        return
    segmentations = {spec["id"]: spec for spec in protocol["segmentations"]}
    if training["segmentation"] not in segmentations:
        raise ConfigError(
            f"{source}: training: there is no segmentation {training['segmentation']!r}; there "
            f"are: {', '.join(segmentations)}."
        )
    roles = protocol["cohort"]["case"]["roles"]
    for role in training["inputs"]:
        if role not in roles:
            raise ConfigError(
                f"{source}: training: inputs: role {role!r} is not among the roles of the cohort: "
                f"{', '.join(roles)}."
            )
    if training["folds"] == 1 and not training["held_out"]:
        raise ConfigError(
            f"{source}: training: with one fold no case is left to evaluate the model on; give "
            "held_out a share, or folds at least 2."
        )


def training_roles(protocol: Mapping[str, Any]) -> list[str]:
    """Return the roles whose volumes are the channels of a training, in their order."""
    training = protocol["training"]
    (spec,) = (s for s in protocol["segmentations"] if s["id"] == training["segmentation"])
    return list(training["inputs"]) or [spec["role"]]


TRAINING_WORDS = frozenset({"model", "licence", "intended_use", "training_data"})
"""Keys of a training that describe the model and change no number."""


def training_folds(training: Mapping[str, Any]) -> list[str]:
    """Return nnU-Net's names of the folds of a training: ``0`` and on, or ``all`` for one model."""
    count = training["folds"]
    return [str(number) for number in range(count)] if count > 1 else ["all"]


def _check_places(
    spec: Mapping[str, Any], segmentations: Sequence[Mapping[str, Any]], where: str
) -> None:
    """Check that the segments of other segmentations that one names are there."""
    known = {s["id"]: [segment["name"] for segment in s["segments"]] for s in segmentations}
    for entry in _places(spec):
        for name in [*entry.get("segments", []), *filter(None, [entry.get("segment")])]:
            if name not in known[entry["segmentation"]]:
                raise ConfigError(
                    f"{where}: segmentation {entry['segmentation']!r} has no segment {name!r}; "
                    f"it has: {', '.join(known[entry['segmentation']])}."
                )


def _check_ranges(spec: Mapping[str, Any], where: str) -> None:
    """Check that thresholds and expected ranges leave something."""
    for segment in spec["segments"]:
        named = f"{where}: segment {segment['name']!r}"
        if spec["engine"] == "threshold":
            if not segment.keys() & {"above", "below", "reference"}:
                raise ConfigError(f"{named}: needs a threshold: add above, below or reference.")
            if segment.get("above", -math.inf) > segment.get("below", math.inf):
                raise ConfigError(f"{named}: above is greater than below; exchange them.")
            least = math.inf if "reference" in segment else segment.get("above", 0)
            if "of_maximum" in segment and least <= 0:
                raise ConfigError(
                    f"{named}: of_maximum: a share of the maximum means something above 0 only; "
                    "add above, greater than 0, or reference."
                )
        for key in ("volume_ml", "intensity"):
            low, high = segment.get("expect", {}).get(key, (0, 0))
            if low > high:
                raise ConfigError(f"{named}: expect.{key}: the first number is the lower one.")


def _check_disagreement(spec: Mapping[str, Any], where: str) -> None:
    """Check that there are masks to compare where a segment expects them to agree."""
    from jipflow.models.registry import pinned_folds

    networks = 0
    if spec["engine"] == "nnunet":
        model = read_models()[spec["model"]]
        members = model["members"] or [""]
        folds = spec["folds"] or pinned_folds(model, members[0])
        networks = len(members) if len(members) > 1 else len(folds)
    for segment in spec["segments"]:
        if "disagreement" in segment.get("expect", {}) and networks < 2:
            raise ConfigError(
                f"{where}: segment {segment['name']!r}: expect.disagreement: nothing is compared; "
                "only the engine nnunet with several folds or members does. Remove it."
            )


def _check_may_be_empty(spec: Mapping[str, Any], where: str) -> None:
    """Check that a segmentation without a voxel has no segment that must be there."""
    if not spec["may_be_empty"]:
        return
    for segment in spec["segments"]:
        if segment["required"]:
            raise ConfigError(
                f"{where}: may_be_empty: segment {segment['name']!r} must be there; set its "
                "`required: false`."
            )


def _check_model(segmentation: Mapping[str, Any], where: str) -> None:
    """Check that a segmentation's model is registered, and can do what is asked of it."""
    models = read_models()
    name = segmentation["model"]
    if name not in models:
        raise ConfigError(
            f"{where}: there is no model {name!r} in {MODELS.name}; it has: {', '.join(models)}."
        )
    model = models[name]
    if model["engine"] != segmentation["engine"]:
        raise ConfigError(
            f"{where}: model {name!r} is of the engine {model['engine']}, not "
            f"{segmentation['engine']}; name another model, or that engine."
        )
    if segmentation["engine"] == "totalsegmentator":
        from jipflow.models.tasks import runnable

        able = runnable(model["files"])
        if (segmentation["task"], segmentation["mode"]) not in able:
            raise ConfigError(
                f"{where}: model {name!r} lacks weights of task {segmentation['task']!r} in mode "
                f"{segmentation['mode']!r}; it has those of: "
                f"{', '.join(f'{task} ({mode})' for task, mode in able) or 'none'}. "
                "docs/models.md says how to fetch and pin them."
            )
        return
    if segmentation["engine"] == "nnunet":
        _check_channels(segmentation, model, where)
    labels = [label["name"] for label in model["labels"]]
    for segment in segmentation["segments"]:
        if segment["label"] not in labels:
            raise ConfigError(
                f"{where}: segment {segment['name']!r}: model {name!r} has no label "
                f"{segment['label']!r}; it has: {', '.join(labels)}."
            )


def _check_channels(segmentation: Mapping[str, Any], model: Mapping[str, Any], where: str) -> None:
    """Check that an nnU-Net gets as many images as it takes, and has the folds that are named."""
    from jipflow.models.registry import pinned_folds

    name, inputs = segmentation["model"], segmentation["inputs"] or [segmentation["role"]]
    if len(inputs) != len(model["roles"]):
        raise ConfigError(
            f"{where}: model {name!r} takes {len(model['roles'])} images "
            f"({', '.join(model['roles'])}) and not {len(inputs)}; name a role for each in inputs, "
            "in this order."
        )
    for member in model["members"] or [""]:
        for fold in segmentation["folds"]:
            if str(fold) not in pinned_folds(model, member):
                raise ConfigError(
                    f"{where}: model {name!r} has no fold {fold} in {MODELS.name}; name one that "
                    "it has, or none for all."
                )


def input_roles(spec: Mapping[str, Any]) -> list[str]:
    """Return the roles whose volumes a segmentation needs, its own first."""
    return list(dict.fromkeys([spec["role"], *spec.get("inputs", [])]))


def input_segmentations(spec: Mapping[str, Any]) -> list[str]:
    """Return the ids of the segmentations that a segmentation needs."""
    named = [entry["segmentation"] for entry in _places(spec)]
    return list(dict.fromkeys([*named, *([spec["proposal"]] if spec.get("proposal") else [])]))


def _places(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping below a segmentation that names segments of another one."""
    if isinstance(node, Mapping):
        if "segmentation" in node:
            yield node
        for child in node.values():
            yield from _places(child)
    elif isinstance(node, list):
        for child in node:
            yield from _places(child)


def in_order(segmentations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return segmentations so that each comes after those that it needs.

    Raises:
        CycleError: they need each other in a circle.
    """
    by_id = {spec["id"]: spec for spec in segmentations}
    needs = {name: input_segmentations(spec) for name, spec in by_id.items()}
    return [by_id[name] for name in TopologicalSorter(needs).static_order()]


def radiomics_settings(name: str, where: str) -> dict[str, Any]:
    """Return the radiomics settings of that name, checked, with their defaults.

    Raises:
        ConfigError: there are none, or they are not valid.
    """
    folder = RESOURCES / "radiomics"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"{where}: there are no radiomics settings {name!r}; there are: {known}.")
    content = validate(read_yaml(path), "radiomics", str(path))
    named = {group: names for group, names in content["featureClass"].items() if names}
    # Reading the table takes longer than the rest, and few settings name single features.
    known_features = read_yaml(RESOURCES / "ibsi_codes.yaml")["features"] if named else {}
    for group, features in named.items():
        for feature in features:
            if feature not in known_features[group]:
                near = difflib.get_close_matches(feature, known_features[group], n=1)
                raise ConfigError(
                    f"{path}: featureClass.{group}: there is no feature {feature!r}"
                    + (f"; did you mean {near[0]!r}?" if near else ".")
                )
    if "Wavelet" in content["imageType"]:
        import pywt

        wavelet = content["imageType"]["Wavelet"]["wavelet"]
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise ConfigError(
                f"{path}: imageType.Wavelet.wavelet: PyWavelets has no discrete wavelet "
                f"{wavelet!r}; coif1 is pyradiomics' own choice."
            )
    return content


def _check_filters(protocol: dict[str, Any], source: str) -> None:
    """Let DuckDB judge every expression of the cohort on an empty catalog."""
    from jipflow.expressions import FilterError, check_expression, filter_steps

    cohort = protocol["cohort"]
    expressions = {f"cohort.where[{i}]": w for i, w in enumerate(filter_steps(cohort["where"]))}
    order = {}
    for role, spec in cohort["case"]["roles"].items():
        expressions[f"cohort.case.roles.{role}.where"] = spec["where"]
        if "prefer" in spec:
            order[f"cohort.case.roles.{role}.prefer"] = spec["prefer"]
    for kind, group in (("where", expressions), ("order", order)):
        for key, expression in group.items():
            try:
                check_expression(expression, kind)
            except FilterError as error:
                raise ConfigError(
                    f"{source}: {key}: {expression!r} is not valid SQL over the series catalog: "
                    f"{error}"
                ) from None


def protocol_sha256(protocol: Mapping[str, Any]) -> str:
    """Return the hash that is the same wherever the same protocol computes the same.

    It is of the canonical JSON (RFC 8785) of the protocol and of what it names: the pinned files of
    its models, the codes of its terms and the parameters of its radiomics.
    """
    return canonical_digest({"protocol": protocol, **named_content(protocol)})


def settings_sha256(settings: Settings, *keys: str) -> str:
    """Return the hash of the named parts of the settings and of what they name.

    For a rule's ``params``; see `named_content`.
    """
    part = settings.part(*keys)
    return canonical_digest({"settings": part, **named_content(part)})


def named_content(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content that parts of a protocol refer to by name.

    Args:
        part: a protocol or some of its keys, checked by `load_settings`.

    Returns:
        ``models`` (pinned files and how they are used) and ``terms`` (codes) behind
        ``segmentations``, ``parameters`` behind ``radiomics``.
    """
    content: dict[str, Any] = {}
    if "segmentations" in part:
        segmentations = part["segmentations"]
        models = sorted({s["model"] for s in segmentations if "model" in s})
        registry = read_models() if models else {}
        decisive = {"files", "image", "checkpoint", "members", "postprocessing", "axes"}
        content["models"] = {
            name: {key: registry[name][key] for key in sorted(decisive & registry[name].keys())}
            | {"labels": {label["name"]: label["value"] for label in registry[name]["labels"]}}
            for name in models
        }
        terms = read_yaml(RESOURCES / "terms.yaml")
        used = sorted({segment["term"] for s in segmentations for segment in s["segments"]})
        content["terms"] = {name: terms[name] for name in used}
    if "radiomics" in part:
        names = sorted({entry["settings"] for entry in part["radiomics"]})
        content["parameters"] = {name: radiomics_settings(name, "radiomics") for name in names}
    return content


def write_settings(path: Path, settings: Settings) -> None:
    """Write the effective settings as JSON; an unchanged file is left as it is."""
    content = settings.as_dict()
    if not path.is_file() or path.read_text(encoding="utf-8") != json_text(content):
        write_json(path, content)


def read_settings(path: Path) -> Settings:
    """Read settings written by `write_settings`."""
    content = read_json(path)
    return Settings(
        content["site"], content["protocol"], content["protocol_sha256"], content["version"]
    )
