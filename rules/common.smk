from functools import cache

from jipflow.settings.folders import results_folder
from jipflow.settings.protocol import annotated
from jipflow.settings.run import load_settings, settings_text
from jipflow.settings.training import DESCRIBING
from jipflow.release.approval import approved_bundle, read_approval
from jipflow.annotate.inbox import inbox_files, inbox_state
from jipflow.outputs import missing_outputs, times_gone

try:
    SITE_SETTINGS = load_settings(config, *CONFIG_FILES)
    ALL_RESULTS = results_folder(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

SITE_ID = SITE_SETTINGS.site.site.id
RESULTS = f"{ALL_RESULTS}/{SITE_SETTINGS.protocol_id}"
SETTINGS = stored_text(STORE, settings_text(SITE_SETTINGS))
RELEASE = f"{RESULTS}/release/r01"
AFTER_COHORT = Path(RESULTS, "cohort", "cases.tsv")
ARCHIVES = SITE_SETTINGS.site.archives
# The catalogs that the cohort is chosen from: the files of the site, and what its PACS answered.
CATALOGS = ["<catalog>", *(["<results>/pacs"] if ARCHIVES else [])]
# Series of a PACS come here before their shard is processed.
RETRIEVED = ["<shard>/retrieve/outcomes.parquet"] if ARCHIVES else []
ARRIVED = ["<work>/{shard}/arrived"] if ARCHIVES else []
# What persons draw or correct; the masks of all others then stand apart.
ANNOTATED = [spec.id for spec in annotated(SITE_SETTINGS.protocol.segmentations)]
AUTOMATIC = "<work>/{shard}/automatic" if ANNOTATED else "<work>/{shard}/masks"
SEGMENTING = ["segment", *(["annotate"] if ANNOTATED else [])]
SEGMENTED = [f"<shard>/{stage}/outcomes.parquet" for stage in SEGMENTING]
ANNOTATIONS = [
    f"<results>/features/{table}.parquet"
    for table in ("readings", "agreement")
    if ANNOTATED
]
STAGES = [
    *(["retrieve"] if ARCHIVES else []),
    *["prepare", *SEGMENTING, "encode", "measure", "document", "overlay"],
    *(["publish"] if SITE_SETTINGS.site.publish else []),
]
TARGETS = [
    "<results>/settings.json",
    "<results>/report/index.html",
    "<results>/accepted",
]
if SITE_SETTINGS.protocol.analyses:
    TARGETS.append("<results>/release/r01/disclosure.html")


pathvars:
    results=RESULTS,
    catalog=f"{ALL_RESULTS}/catalog",
    work=f"{RESULTS}/work",
    shard=f"{RESULTS}/shards/{{shard}}",
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


wildcard_constraints:
    shard=r"s\d{5}",


check_paths()


def settings_hash(*keys):
    """Hash of the named parts of the settings: a job runs again when what it depends on changes."""
    return SITE_SETTINGS.sha256(*keys)


def training_hash(*keys):
    """Hash of keys of the training: a change of one runs again only what depends on it."""
    training = SITE_SETTINGS.protocol.training.plain()
    return canonical_digest({key: training[key] for key in keys if key in training})


def source_hash(archives):
    """Hash of what the sources are: the folders, or the PACS without the limits of their use."""
    limits = {"parallel", "bytes_per_second", "hours", "timeout"}
    site = SITE_SETTINGS.site
    chosen = [s.plain() for s in site.sources if (s in site.archives) == archives]
    return canonical_digest([{k: s[k] for k in s.keys() - limits} for s in chosen])


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


@cache
def cases_by_shard(path, modified_ns):
    """The case_ids of each shard, read once however many shards ask."""
    found = {}
    with open(path) as stream:
        names = next(stream).rstrip("\n").split("\t")
        for line in stream:
            row = dict(zip(names, line.rstrip("\n").split("\t"), strict=True))
            found.setdefault(row["shard"], set()).add(row["case_id"])
    return found


def came_back(look):
    """Input or params function: what a look at the inbox gives for the cases of the shard."""

    def found(wildcards):
        path = Path(checkpoints.cohort.get().output.cases)
        case_ids = cases_by_shard(path, path.stat().st_mtime_ns)[wildcards.shard]
        return look(SITE_SETTINGS.inbox(Path(RESULTS)), ANNOTATED, sorted(case_ids))

    return found


def gone(stage, *beside):
    """Params function: makes a job run again when files are gone that it wrote for its shard.

    The outcomes list them; `beside` are patterns of others.
    """

    def counted(wildcards):
        outcomes = Path(RESULTS, "shards", wildcards.shard, stage, "outcomes.parquet")
        if not outcomes.is_file():
            return times_gone([], [])
        missing = missing_outputs(outcomes, Path(RESULTS))
        others = [pattern.format(shard=wildcards.shard) for pattern in beside]
        missing += [name for name in others if not Path(RESULTS, name).is_file()]
        recorded = workflow.persistence.params(IOFile(str(outcomes)))
        return times_gone(missing, recorded or [])

    return counted


def annotations(table):
    """Input of all shards' tables of what persons sent back, where there are any."""
    pattern = f"<results>/shards/{{shard}}/annotate/{table}.parquet"
    return shards(pattern) if ANNOTATED else []


def until_read(path):
    """Mark a file that goes with its shard, but not where a person's file needs it in a later run."""
    return path if ANNOTATED else temp(path)


def approval(wildcards):
    """Input function: a person's approval, which no rule can make."""
    try:
        read_approval(Path(RELEASE))
    except (StageError, ConfigError) as error:
        raise WorkflowError(str(error)) from None
    return f"{RELEASE}/approval.json"


def no_training(wildcards):
    """Input function of a training that the protocol does not describe."""
    raise WorkflowError(
        f"protocol {SITE_SETTINGS.protocol_id!r} has no section training; add one, see "
        "docs/training.md."
    )
