# The shards whose files stand: a run plans no jobs of these.
from functools import cache
from hashlib import md5

from snakemake.io import IOFile

from jipflow.finished import is_finished

# What Snakemake notes of a job that has the libraries of the run.
NO_ENVIRONMENT = md5(usedforsecurity=False).hexdigest()


def tables_of_shards(pattern, **others):
    """Input function of `collect`: as `shards`, but no job of a finished shard is planned.

    What such a shard has written is named as it is `before_update`: Snakemake looks for no rule of
    such a file, but for its time. The files have to be of stages that `stands` looks at.
    """

    @looking
    def paths(wildcards):
        finished = finished_shards()
        planned = expand(
            pattern, shard=sorted(jobs().cases.keys() - finished), **others
        )
        there = expand(pattern, shard=sorted(finished), **others)
        return [*planned, *map(before_update, there)]

    return paths


@cache
def finished_shards():
    """The shards of which nothing is to be done and no job is planned; one look a run."""
    names = jobs().cases.keys()
    found = frozenset(filter(stands, names)) if leaves_out() else frozenset()
    if found:
        logger.info(
            f"{len(found)} of {len(names)} shards are finished: no job of them is planned."
        )
    return found


def leaves_out():
    """Whether this run plans no jobs of finished shards.

    It plans those of all shards where jobs are named that shall run or not, where they are listed
    or touched, where they have libraries of their own, of which records say nothing, and where
    persons send something back for shards.
    """
    asked = workflow.dag_settings
    whole = {rule.name for rule in workflow.rules if "shard" not in rule.wildcard_names}
    named = asked.until | asked.omit_from | (asked.forcerun - whole)
    forced = asked.forceall or asked.forcetargets or asked.batch
    runs = workflow.executor_plugin is not None and not workflow.touch
    own = OWN_LIBRARIES and not ANNOTATED
    return workflow.is_main_process and runs and own and not (named or forced)


def stands(shard):
    """Whether nothing of a shard is to be done.

    Parts of shards, and shards of which parts were set apart, have more to be looked at.
    """
    cohort = chosen().parent
    cases = cohort / "shards" / f"{shard}.parquet"
    apart = cohort / "apart" / cases.name
    if jobs().instances(cohort, shard) != cases or apart.is_file():
        return False
    folder = Path(RESULTS, "shards", shard)
    receipts = Path(RESULTS, "published", f"{shard}.jsonl")
    files = [receipts] if "publish" in STAGES else []
    return is_finished(folder, STAGES, cases, settings_parts, files) and all(
        is_remembered(f"{folder}/{stage}/outcomes.parquet") for stage in STAGES
    )


def is_remembered(path):
    """Whether Snakemake remembers nothing of the job of a file that would have it run again.

    That is another command of its rule, or libraries that were its own.
    """
    made = workflow.persistence.metadata(IOFile(path))
    if made is None:
        return True
    own = made.software_stack_hash in {None, NO_ENVIRONMENT}
    return own and made.code == commands().get(made.rule)


@cache
def commands():
    """The command of each rule, as Snakemake remembers it."""
    return {rule.name: rule.shellcmd for rule in workflow.rules}
