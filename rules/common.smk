from functools import cache

from jipflow.catalog.consented import cohort_state
from jipflow.settings.folders import results_folder
from jipflow.settings.protocol import annotated
from jipflow.settings.extras import check_segmentations, check_training, needed_extra
from jipflow.settings.run import load_settings, settings_text
from jipflow.release.packing import packed_state
from jipflow.release.rounds import heard_state, read_standing
from jipflow.annotate.inbox import check_inbox, inbox_state
from jipflow.outputs import missing_outputs, named, unexpected
from jipflow.privacy.erased import erased_state
from jipflow.privacy.pseudonyms import check_secret
from jipflow.privacy.rights import check_results
from jipflow.subset import (
    FOLDER,
    OF_JOBS,
    is_current,
    jobs_of,
    read_members,
    read_subset,
    whole_of,
)

try:
    SITE_SETTINGS = load_settings(config, *CONFIG_FILES)
    if workflow.is_main_process and OWN_LIBRARIES:
        check_segmentations(SITE_SETTINGS.protocol)
    ALL_RESULTS = Path(results_folder(config))
    SUBSET = read_subset(config)
except ConfigError as error:
    stop_with(str(error))

# Of this process and of all that it starts. That of a job on another machine reads this file, too.
os.umask(SITE_SETTINGS.site.permissions.mask)

# For a profile that sends jobs with a GPU to a partition of their own (`jipflow site init`).
os.environ.update(JIPFLOW_GPU=str(int(SITE_SETTINGS.uses_gpu)))

SITE_ID = SITE_SETTINGS.site.site.id
# One spelling, by which Snakemake knows files again.
RESULTS = str(Path(ALL_RESULTS, SITE_SETTINGS.protocol_id))
# The tables of all shards and the report; those of a try on some cases never lie where a release is made.
JOINED = f"{RESULTS}/{FOLDER}" if SUBSET else RESULTS
INWAY, OUTWAY = SITE_SETTINGS.site.exchange.ways(ALL_RESULTS)
# What puts messages into the folder that is sent.
PACKED = ["<results>/bundles/provenance.json"]
SETTINGS = stored_settings(settings_text(SITE_SETTINGS))
RELEASE = f"{RESULTS}/release/r{{round}}"
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
# What conda makes for the jobs that run networks; that of TotalSegmentator has nnU-Net, too.
NETWORKS = needed_extra(SITE_SETTINGS.protocol) or "jipflow"
# On a cluster the stages of a shard are one job, or one after a model's masks: what its stage holds
# for long, a GPU above all, is of no use to the others.
TOGETHER = "shard"
TO_MASKS = None if SITE_SETTINGS.runs_models else TOGETHER
SEGMENTING = ["segment", *(["annotate"] if ANNOTATED else [])]
SEGMENTED = [f"<shard>/{stage}/outcomes.parquet" for stage in SEGMENTING]
ANNOTATIONS = [
    f"<joined>/features/{table}.parquet"
    for table in ("readings", "agreement")
    if ANNOTATED
]
# The clinical variables, where the protocol asks for any.
CLINICAL = (
    ["<results>/clinical/clinical.parquet"] if SITE_SETTINGS.protocol.clinical else []
)
MISSING = (
    ["<results>/clinical/missing.parquet"] if SITE_SETTINGS.protocol.clinical else []
)
STAGES = SITE_SETTINGS.stages
# Those whose outcomes no other stage reads.
LAST = ["overlay", "publish" if SITE_SETTINGS.site.publish else "document"]
TARGETS = [
    "<results>/settings.json",
    "<joined>/report/index.html",
    "<joined>/crate/run.zip",
    *([] if SUBSET else ["<results>/accepted"]),
]


pathvars:
    results=RESULTS,
    catalog=str(Path(ALL_RESULTS, "catalog")),
    joined=JOINED,
    work=f"{RESULTS}/work",
    shard=f"{RESULTS}/shards/{{shard}}",
    logs=f"{RESULTS}/logs",


wildcard_constraints:
    shard=OF_JOBS.pattern,
    round=r"\d{2}",


check_paths()


if workflow.is_main_process:
    try:
        check_secret(Path(SITE_SETTINGS.site.identity.secret_file), ALL_RESULTS)
        check_results(ALL_RESULTS, SITE_SETTINGS.site.permissions.mask)
    except (StageError, OSError) as error:
        stop_by(error)

settings_parts = cache(SITE_SETTINGS.parts)


def stale(stage, record=None, *, inputs=None, state=None, files=None):
    """Input function that names no file, and has a job run again that would now write another.

    Args:
        stage: of the job.
        record: path of its record; by default that of a stage of a shard.
        inputs: function that gives the records it would read now, where their number may change.
        state: function that gives the hash of what else decides.
        files: patterns of files below the results that shall still be there, as those shall that
            its outcomes list; None where these are not looked for.
    """
    pattern = record or f"{RESULTS}/shards/{{shard}}/{stage}/provenance.json"

    @looking
    def nothing(wildcards):
        path = Path(pattern.format(**wildcards))
        now = {
            "inputs": inputs and inputs(wildcards),
            "state": state and state(wildcards),
        }
        given = {key: value for key, value in now.items() if value is not None}
        tables = record is None
        check_record(path, stage, settings_parts(stage), tables=tables, **given)
        if files is not None and workflow.is_main_process and path.exists():
            missing = missing_outputs(path.with_name("outcomes.parquet"), Path(RESULTS))
            others = [name.format(**wildcards) for name in files]
            missing += [name for name in others if not Path(RESULTS, name).is_file()]
            if missing:
                job = f"{stage} of {wildcards.shard}"
                run_again(path, job, f"of its files are gone: {named(missing)}")
        return []

    return nothing


def catalog_records(wildcards):
    """Input function of `stale`: the records of the catalogs."""
    folders = [
        Path(ALL_RESULTS, "catalog"),
        *([Path(RESULTS, "pacs")] if ARCHIVES else []),
    ]
    return [folder / "provenance.json" for folder in folders]


def erased(wildcards):
    """The hash of who was erased at the site."""
    return erased_state(SITE_SETTINGS.site.identity, ALL_RESULTS)


def consenting(wildcards):
    """The hash of who consents today, where the protocol asks for consent."""
    return cohort_state(SITE_SETTINGS)


def shard_records(*stages):
    """Input function of `stale`: the records of stages of every shard, and of the cohort."""

    def paths(wildcards):
        found = shards(
            f"{RESULTS}/shards/{{shard}}/{{stage}}/provenance.json", stage=stages
        )
        return [
            Path(RESULTS, "cohort", "provenance.json"),
            *map(Path, found(wildcards)),
        ]

    return paths


def shards(pattern, **others):
    """Input function: the pattern for every shard of the cohort, and every other wildcard given."""

    @looking
    def paths(wildcards):
        return expand(pattern, shard=sorted(jobs().cases), **others)

    return paths


@cache
def jobs_now(modified_ns):
    """What this run processes of a cohort of that time; one look, so that it never changes."""
    return jobs_of(Path(RESULTS), SUBSET)


def chosen():
    """The cases of the cohort, once it is chosen; before, Snakemake waits for it."""
    if str(AFTER_COHORT) not in checkpoints.created_output:
        checkpoints.cohort.get()
    return AFTER_COHORT


def jobs():
    """The shards and parts of shards that this run processes, with the cases of each."""
    try:
        return jobs_now(os.stat(chosen()).st_mtime_ns)
    except ConfigError as error:
        stop_with(str(error))


@cache
def try_again(shard):
    """Have the stages of a shard run again that met an error which they did not know.

    It may have been a moment's. One look a run, so that an error that stays is tried once.
    """
    for path in unexpected(Path(RESULTS, "shards", shard)):
        job = f"{path.parent.name} of {shard}"
        run_again(path, job, "it met an error that it did not know, or was cut off")


@looking
def shard_cases(wildcards):
    """Input function: the shard's instances, a file that changes only with its own cases."""
    cohort = chosen().parent
    if workflow.is_main_process:
        try_again(wildcards.shard)
        join_again(cohort, wildcards.shard)
    return jobs().instances(cohort, wildcards.shard)


@cache
def join_again(cohort, shard):
    """Have a shard run again as a whole of which what was set apart is gone."""
    left = cohort / "apart" / f"{shard}.parquet"
    if left.is_file() and jobs().instances(cohort, shard) != left:
        whole = cohort / "shards" / left.name
        if not is_current(left, whole, jobs().cases[shard]):
            for stage in ("retrieve", "prepare"):
                path = Path(RESULTS, "shards", shard, stage, "provenance.json")
                if path.is_file():
                    run_again(path, f"{stage} of {shard}", "a part of it is gone")


def whole_shard(wildcards):
    """Input function: the instances of the shard that a part is of.

    Its time says nothing of the part's own cases, which `apart_again` compares.
    """
    cohort = chosen().parent
    return ancient(cohort / "shards" / f"{whole_of(wildcards.shard)}.parquet")


@looking
def apart_again(wildcards):
    """Input function that names no file, and has the instances of a part written again."""
    path = Path(RESULTS, "cohort", "apart", f"{wildcards.shard}.parquet")
    cases = jobs().cases[wildcards.shard]
    shard = path.parents[1] / "shards" / f"{whole_of(wildcards.shard)}.parquet"
    if workflow.is_main_process and path.is_file():
        if not is_current(path, shard, cases):
            run_again(path, f"apart of {wildcards.shard}", "its cases have changed")
    return []


def shares(wildcards):
    """The cores that a shard may have of those of the run, and its cases; None where not known.

    Snakemake gives no more than the run has. On a node of a cluster that is all of the node's cores,
    of which the job has asked for no share.
    """
    if not AFTER_COHORT.is_file():
        return 4, None
    cases = jobs_now(os.stat(AFTER_COHORT).st_mtime_ns).cases
    cores = 0 if workflow.remote_exec else workflow.resource_settings.cores or 0
    return max(4, -(-cores // max(1, len(cases)))), cases.get(wildcards.shard)


@called
def model_threads(wildcards):
    """Cores of a model, which computes one case on all of them: the shard's share."""
    return shares(wildcards)[0]


@called
def shard_threads(wildcards):
    """Cores of a stage of a shard on a cluster, or of one that has its cores alone: one a case."""
    share, cases = shares(wildcards)
    return share if cases is None else min(share, len(cases))


@called
def stage_threads(wildcards):
    """Cores of a stage that shares those of the run case by case, where all jobs are on one machine.

    It counts for half of them, so that two such stages run side by side.
    """
    if shares_cores():
        return max(1, workflow.resource_settings.cores // 2)
    return shard_threads(wildcards)


@called
def stage_workers(wildcards, output):
    """Params function: after the threads of a stage, the processes that it has instead of them.

    Each of these waits for a core. The function takes no `threads`, for which Snakemake would look
    at the resources of each job that is planned, and takes `output` as `settings_file` does.
    """
    return f"--threads {shared_cores()}" if shares_cores() else ""


def each_try(amount):
    """Resource function: what a job gets, and as much again in each further try."""

    def given(wildcards, attempt):
        return attempt * amount

    return given


def shard_memory(megabytes):
    """Resource function: MB of a shard's stage on 4 cores or fewer, more in proportion.

    A stage has a process a core, and each of them holds a case.
    """

    def given(wildcards, threads, attempt):
        return attempt * megabytes * max(threads, 4) // 4

    return given


def shard_minutes(number):
    """Resource function: minutes of a shard's stage for 50 cases or fewer, more in proportion.

    A further try has no more: it may be for want of memory, and partitions end jobs.
    """

    def given(wildcards):
        cases = ()
        if AFTER_COHORT.is_file():
            known = jobs_now(os.stat(AFTER_COHORT).st_mtime_ns).cases
            cases = known.get(wildcards.shard, ())
        return -(-number * max(len(cases), 50) // 50)

    return given


def came_back(look):
    """Input function: what a look at the inbox gives for the cases of the shard."""

    @looking
    def found(wildcards):
        # A job's process need not reach the inbox, and knows from the run what has changed.
        if not workflow.is_main_process:
            return ""
        inbox = SITE_SETTINGS.inbox(Path(RESULTS))
        check_inbox(inbox, Path(RESULTS))
        return look(inbox, ANNOTATED, sorted(jobs().cases[wildcards.shard]))

    return found


def annotations(table):
    """Input of all shards' tables of what persons sent back, where there are any."""
    pattern = f"<results>/shards/{{shard}}/annotate/{table}.parquet"
    return shards(pattern) if ANNOTATED else []


def until_read(path):
    """Mark a file that goes with its shard, but not where a person's file needs it in a later run."""
    return path if ANNOTATED else temp(path)


def of_round(name):
    """Input function: a file below the results of the round that is open."""

    @looking
    def path(wildcards):
        standing = read_standing(Path(checkpoints.receive.get().output.standing))
        return str(Path(RESULTS, name.format(round=f"{standing.round:02d}")))

    return path


if SITE_SETTINGS.protocol.analyses and not SUBSET:
    TARGETS.append(of_round("release/r{round}/disclosure.html"))


def heard(wildcards):
    """The hash of what the hub has sent and the site has packed."""
    return heard_state(SITE_SETTINGS, Path(RESULTS))


def packed(wildcards):
    """The hash of what a person has approved and what lies in the outbox."""
    return packed_state(SITE_SETTINGS, Path(RESULTS))


def training_records(*names):
    """Input of records of the training's jobs."""
    return [f"<train>/{name}.provenance.json" for name in names]


def fits(part):
    """The names of the models that predict a part: a fold, or what is held out of all."""
    folds = SITE_SETTINGS.protocol.training.fold_names()
    return [f"fit_{fold}" for fold in (folds if part == "held_out" else [part])]


@looking
def can_train(wildcards):
    """Input function that names no file, and ends a run that could not train."""
    if workflow.is_main_process and OWN_LIBRARIES:
        try:
            check_training(SITE_SETTINGS.protocol)
        except ConfigError as error:
            stop_with(str(error))
    return []


def no_training(wildcards):
    """Input function of a training that the protocol does not describe."""
    stop_with(
        f"protocol {SITE_SETTINGS.protocol_id!r} has no section training; add one, see "
        "docs/training.md."
    )


def whole_only(wildcards):
    """Input function of what is never made of some cases alone."""
    stop_with(
        "case and shards: a release or a model is of the whole cohort, and none is made of a "
        "subset of its cases; leave case and shards out."
    )


if SUBSET and workflow.is_main_process and AFTER_COHORT.is_file():
    try:
        SUBSET.chosen(read_members(AFTER_COHORT))
    except ConfigError as error:
        stop_with(str(error))
