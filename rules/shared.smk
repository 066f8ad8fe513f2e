# What the rules of a site and of the hub share.
import gc
import os
import re
import sys
import shutil
import subprocess
import time
from functools import wraps
from inspect import signature
from itertools import chain
from pathlib import Path
from uuid import uuid4

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    from jipflow.cli.attempts import Tries
    from jipflow.cli.slurm import watch_jobs
    from jipflow.exchange.transport import unsent
    from jipflow.files import json_text, stored_text
    from jipflow.forked import start, stop, tell
    from jipflow.lock import away, hold, stay_at_work
    from jipflow.place import InALine, sentence
    from jipflow.provenance import difference
    from jipflow.reasons import StageError
    from jipflow.settings.command_line import check_names, check_reached
    from jipflow.settings.folders import results_folder
    from jipflow.settings.kinds import is_hub
    from jipflow.settings.resources import (
        ROOT,
        ConfigError,
        check_repository,
        check_rules,
        read_mapping,
    )
except ImportError as error:
    raise WorkflowError(
        f"jipflow does not run with {sys.executable}: {error}. Clone its repository, say "
        "`make setup` there, and start the snakemake in its .venv/bin."
    ) from None


# The plan is made of objects that live as long as the run: to look through them for garbage again and
# again, as Python does by default, takes a fifth of the time of a plan of thousands of jobs.
gc.set_threshold(100_000, 20, 20)


# Logs that are older are of earlier runs.
BEGAN = time.time()


# Memory in MB that a case needs while it is worked on; where contours are imported it is the most.
CORE_MB = 3000


def stop_with(message):
    """End the run with a message alone; Snakemake would frame that of an exception."""
    logger.error(message)
    raise SystemExit(1)


def stop_by(error):
    """End the run with what an error says, of the data or of the place."""
    stop_with(str(error) if isinstance(error, StageError) else sentence(error))


IS_MODULE = not workflow.modifier.is_main_snakefile()
# Snakemake takes the last of two keys; a workflow that uses this one has files of its own.
CONFIG_FILES = [] if IS_MODULE else workflow.configfiles

try:
    check_repository()
    # Of a workflow on the web Snakemake has no folder.
    if hasattr(workflow.current_basedir, "__fspath__"):
        check_rules(Path(workflow.current_basedir))
    for path in CONFIG_FILES:
        read_mapping(Path(path))
except ConfigError as error:
    stop_with(str(error))

# For messages.
CONFIG_FILES = [", ".join(str(path) for path in CONFIG_FILES)] if CONFIG_FILES else []

# Effective settings, each under a name that is its hash: a dry run with other settings, or the job
# of another protocol, changes none that a job reads.
STORE = Path(".snakemake", "jipflow").absolute()

# Jobs in an environment of their own (--sdm conda) have its libraries, not those of this process.
OWN_LIBRARIES = not workflow.deployment_settings.deployment_method

# Where envs/jipflow.post-deploy.sh installs from.
os.environ.update(JIPFLOW_REPOSITORY=str(ROOT))

# Jobs find jipflow beside the snakemake that runs them, unless their own environment has one.
search_path = os.environ.get("PATH", os.defpath).split(os.pathsep)
beside = str(Path(sys.executable).parent)
if beside not in search_path:
    os.environ.update(PATH=os.pathsep.join([*search_path, beside]))


if workflow.is_main_process and not IS_MODULE:
    logger.addFilter(
        InALine(lambda: away(Path(ALL_RESULTS)) if "ALL_RESULTS" in globals() else "")
    )


# What a job has found that no other try can change is in files here, until the run ends. The name is
# that of the run, too; on another machine a job that has not inherited it is of no known run.
FINDINGS = os.environ.get("JIPFLOW_RUN", str(STORE / "runs" / uuid4().hex))
if workflow.is_main_process:
    os.environ.update(JIPFLOW_RUN=FINDINGS)


# The plugin is loaded whatever runs the jobs, where it is installed.
if workflow.is_main_process and "snakemake_executor_plugin_slurm" in sys.modules:
    if lacking := watch_jobs():
        logger.warning(lacking)


def called(function):
    """Have Snakemake find the parameters of a function that it calls for each job.

    It looks at them at each call, which takes more time than most functions.
    """
    function.__signature__ = signature(function)
    return function


def looking(function):
    """Have a function that Snakemake calls end the run in a line where the place fails it."""

    @called
    @wraps(function)
    def looked(*arguments, **named):
        try:
            return function(*arguments, **named)
        except (StageError, OSError) as error:
            stop_by(error)

    return looked


@looking
def stored_settings(text):
    """The file of effective settings of a text."""
    return stored_text(STORE, text)


def hold_results(wildcards):
    """Input function that names no file: keeps other runs off the results before the first job.

    A dry run, and what else makes nothing, holds nothing; jobs are held by the run they are of.
    """
    makes = workflow.executor_plugin is not None and not workflow.dryrun
    if makes and workflow.is_main_process:
        try:
            hold(Path(ALL_RESULTS), FINDINGS, logger.info)
            # What a module does when a run starts is not done; and where no cohort was chosen yet,
            # jobs of every rule will run, whose libraries load while they are planned.
            if IS_MODULE or not (is_hub(config) or AFTER_COHORT.is_file()):
                start_server(SETTINGS)
        except (StageError, OSError) as error:
            stop_by(error)
    return []


def join_run():
    """In a job on a cluster, end it where its run is over, before Snakemake removes any output.

    Of the sites of a workflow that uses this one a job is of one, and the run may hold no other.
    """
    if workflow.remote_exec and not IS_MODULE and "JIPFLOW_RUN" in os.environ:
        try:
            stay_at_work(Path(ALL_RESULTS), FINDINGS)
        except (StageError, OSError) as error:
            stop_by(error)


def start_server(settings, *rules):
    """Start what the jobs of this run, of these rules, are copies of, if they run here.

    Where no rule is named, they may be of any; `settings` is empty as long as none were read.
    """
    if shares_cores():
        start([sys.executable, "-m", "jipflow.cli.server"], str(shared_cores()))
        tell(str(settings), *rules)
    else:
        stop()


def shares_cores():
    """Whether the jobs of this run have the cores of one machine in common."""
    return workflow.local_exec and not workflow.remote_exec


def shared_cores():
    """The cores on which cases are worked on at a time: those of the run that its memory allows."""
    cores = workflow.resource_settings.cores
    memory = workflow.global_resources.get("mem_mb").value
    return max(1, min(cores, memory // CORE_MB if memory else cores))


def begins_a_site():
    """Whether nothing of a site was catalogued yet, so that jobs of every rule will run."""
    try:
        return not (
            is_hub(config)
            or Path(results_folder(config), "catalog", "series.parquet").is_file()
        )
    except ConfigError:
        return False


# What will run the jobs is not known yet, nor whether any will run, but for what was typed. Of a run
# elsewhere no number of cores is known.
if (
    workflow.is_main_process
    and not IS_MODULE
    and workflow.resource_settings.cores
    and not any(re.fullmatch(r"-\w*n\w*|--dry-?run", word) for word in sys.argv)
    and begins_a_site()
):
    start_server("")


@called
def settings_file(wildcards, output):
    """Params function: the effective settings.

    It takes `output` so that Snakemake records no path: a change of the settings runs again only
    the jobs that depend on what has changed, which `run_again` finds.
    """
    return str(SETTINGS)


NOTED = set()


def run_again(output, job, reason):
    """Have the job of a file run again, for a reason that is printed once a rule.

    It is what Snakemake does with outputs of a job that was cut off, and unlike parameters it needs
    no memory of earlier runs. The processes of jobs look at nothing: what runs was decided.
    """
    workflow.dag.forcefiles.add(str(output))
    if (job, reason) not in NOTED:
        NOTED.add((job, reason))
        logger.info(f"{job} runs again: {reason}.")


def once_fetched(look):
    """Input function that looks when this run has fetched what there is, where it fetches."""

    @wraps(look)
    def looked(wildcards):
        if INWAY.address:
            checkpoints.fetch.get()
        return look(wildcards)

    return looked


@looking
def unsent_messages(wildcards):
    """Input function that names no file, and has `send` run again where something was not sent."""
    if workflow.is_main_process:
        waiting = unsent(OUTWAY.folder, Path(CARRIED, "sent.list"), OUTWAY.address)
        if waiting or not Path(CARRIED, "sent.json").is_file():
            workflow.dag.forcefiles.add(f"{CARRIED}/sent.json")
    return []


@looking
def fetch_again(wildcards):
    """Input function that names no file, and has `fetch` run again where the place has something.

    Where it does not answer the job will say why.
    """
    path = f"{CARRIED}/fetched.json"
    if workflow.is_main_process and path not in workflow.dag.forcefiles:
        memory = f"{CARRIED}/fetched.list"
        words = ["--from", INWAY.address, "--to", INWAY.folder, "--memory", memory]
        looked = subprocess.run(
            ["jipflow", "exchange", "look", *words], capture_output=True, check=False
        )
        if looked.returncode or looked.stdout:
            workflow.dag.forcefiles.add(path)
    return []


def check_record(record, stage, parts, **now):
    """Have the job of a record run again where the record does not hold."""
    if not workflow.is_main_process:
        return
    if not record.exists():
        workflow.dag.forcefiles.add(str(record))
    elif reason := difference(record, stage, parts, here=OWN_LIBRARIES, **now):
        run_again(record, stage, reason)


@looking
def stale_settings(wildcards):
    """Input function that names no file, and has the settings written again that differ."""
    path = Path(RESULTS, "settings.json")
    if path.is_file() and path.read_bytes() != SETTINGS.read_bytes():
        run_again(path, "settings", "they have changed")
    return []


def check_paths():
    """Refuse a module statement that moves the files of rules: commands would not follow."""
    moved = workflow.modifier.path_modifier.replace_prefix("results") != "results"
    if moved or workflow.pathvars.get("results") != RESULTS:
        raise WorkflowError(
            "jipflow's results cannot be moved by prefix, replace_prefix or pathvars of a module "
            "statement; set `results` in the module's config."
        )


def check_until(wildcards):
    """Input function of nothing: refuses what --until names where no job would follow."""
    settings = workflow.dag_settings
    rules = [rule.name for rule in workflow.rules]
    try:
        check_names({*settings.until, *settings.omit_from}, rules, is_hub(config))
        check_reached(settings.until, AFTER_COHORT)
    except ConfigError as error:
        stop_with(str(error))
    return []


def unknown_target(wildcards):
    """Input function of a target that nothing makes; Snakemake would propose none."""
    rules = [rule.name for rule in workflow.rules if rule.name != "unknown"]
    try:
        check_names([wildcards.name], rules, is_hub(config))
    except ConfigError as error:
        stop_with(str(error))
    stop_with(f"{wildcards.name!r} is a file that no rule makes.")


def print_ending(text):
    """Print what a run says last, and forget what its jobs found that no other try can change."""
    shutil.rmtree(FINDINGS, ignore_errors=True)
    if text:
        print(f"\n{text}\n", file=sys.stderr, flush=True)


def begin_log():
    """Log what jobs do from here on, for programs."""
    from jipflow.repair.events import FILE, RunLog

    run = Path(FINDINGS).name
    # By --quiet Snakemake would not even tell its loggers of the ends of jobs; what is printed of
    # them its own handler decides.
    workflow.scheduler.print_progress = True
    try:
        logger.addHandler(RunLog(Path(RESULTS, FILE), run, len(workflow.dag)))
    except OSError as error:
        stop_by(error)


def end_log(state):
    """Log the end of the run, and run the command that a site has named for then."""
    from jipflow.repair.after_run import counts_after, secret_variables, tell
    from jipflow.repair.events import RunLog

    for each in logger.handlers:
        if isinstance(each, RunLog):
            each.finish(state)
    if not is_hub(config) and SITE_SETTINGS.site.after_run:
        site = SITE_SETTINGS.site
        about = counts_after(
            Path(ALL_RESULTS), SITE_ID, SITE_SETTINGS.protocol_id, state
        )
        if wrong := tell(site.after_run, about, secret_variables(site)):
            logger.warning(wrong)


def failed_jobs():
    """The rule and the log of each job that failed; of a group, of its stages that did."""
    from jipflow.report.ending import failed_stages

    for job in workflow.scheduler.failed:
        stages = chain.from_iterable(job.toposorted) if job.is_group() else [job]
        logs = [
            (each.rule.name, str(each.log[0]) if each.log else None) for each in stages
        ]
        yield from failed_stages(logs, BEGAN) if job.is_group() else logs
