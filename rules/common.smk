from pathlib import Path

from jipflow import __version__
from jipflow.cases import StageError
from jipflow.config import ConfigError, load_settings, settings_sha256, write_settings
from jipflow.federate.release import approved_bundle, read_approval

try:
    SITE_SETTINGS = load_settings(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"{config.get('results', 'results')}/{SITE_SETTINGS.protocol_id}"
SETTINGS = f"{RESULTS}/settings.json"
RELEASE = f"{RESULTS}/release/r01"
TARGETS = ["<results>/report/index.html", "<results>/accepted"]
if SITE_SETTINGS.protocol["analyses"]:
    TARGETS.append("<results>/release/r01/disclosure.html")


pathvars:
    results=RESULTS,
    catalog=f"{config.get('results', 'results')}/catalog",
    work=f"{RESULTS}/work",
    shard=f"{RESULTS}/shards/{{shard}}",
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


wildcard_constraints:
    shard=r"s\d{5}",


onstart:
    write_settings(Path(SETTINGS), SITE_SETTINGS)


def settings_hash(*keys):
    """Hash of the named parts of the settings: a job runs again when what it depends on changes."""
    return settings_sha256(SITE_SETTINGS, *keys)


def shards(pattern, **others):
    """Input function: the pattern for every shard of the cohort, and every other wildcard given."""

    def paths(wildcards):
        with open(checkpoints.cohort.get().output.cases) as stream:
            column = next(stream).rstrip("\n").split("\t").index("shard")
            names = sorted({line.rstrip("\n").split("\t")[column] for line in stream})
        return expand(pattern, shard=names, **others)

    return paths


def shard_cases(wildcards):
    """Input function: the shard's instances, a file that changes only with its own cases."""
    cohort = Path(checkpoints.cohort.get().output.cases).parent
    return cohort / "shards" / f"{wildcards.shard}.parquet"


def approval(wildcards):
    """Input function: a person's approval, which no rule can make."""
    try:
        read_approval(Path(RELEASE))
    except (StageError, ConfigError) as error:
        raise WorkflowError(str(error)) from None
    return f"{RELEASE}/approval.json"
