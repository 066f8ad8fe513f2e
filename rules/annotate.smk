from functools import cache

from jipflow.segment.inbox import inbox_files, inbox_state

INBOX = SITE_SETTINGS.inbox(Path(RESULTS))


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
        return look(INBOX, ANNOTATED, sorted(case_ids))

    return found


# What persons sent back is told by its own state, too: a file may be replaced by an older one.
# Writes worklist/<segmentation>/<case_id>/ for each case that waits.
rule annotate:
    input:
        cases=shard_cases,
        arrived=ARRIVED,
        prepared="<shard>/prepare/outcomes.parquet",
        segmented="<shard>/segment/outcomes.parquet",
        volumes="<work>/{shard}/volumes",
        automatic=AUTOMATIC,
        returned=came_back(inbox_files),
    output:
        masks=temp(directory("<work>/{shard}/masks")),
        readings="<shard>/annotate/readings.parquet",
        agreement="<shard>/annotate/agreement.parquet",
        outcomes="<shard>/annotate/outcomes.parquet",
    log:
        "<logs>/annotate/{shard}.log",
    benchmark:
        "<benchmarks>/annotate/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        settings=settings_hash("protocol", "segmentations"),
        inbox=came_back(inbox_state),
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow annotate --settings $JIPFLOW_SETTINGS"
        " --cases {input.cases} --prepared {input.prepared} --segmented {input.segmented}"
        " --volumes {input.volumes} --automatic {input.automatic} --results {params.results}"
        " --masks {output.masks} --readings {output.readings} --agreement {output.agreement}"
        " --outcomes {output.outcomes} --threads {threads} > {log} 2>&1"
