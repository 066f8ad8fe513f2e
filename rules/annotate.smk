rule annotate:
    """Take over what persons sent back for a shard, and see which cases wait for them.

    Writes worklist/<segmentation>/<case_id>/ for each case that waits.
    """
    input:
        again=stale("annotate", state=came_back(inbox_state), files=[]),
        cases=shard_cases,
        arrived=ARRIVED,
        prepared="<shard>/prepare/outcomes.parquet",
        segmented="<shard>/segment/outcomes.parquet",
        volumes="<work>/{shard}/volumes",
        automatic=AUTOMATIC,
    output:
        masks=temp(directory("<work>/{shard}/masks")),
        readings="<shard>/annotate/readings.parquet",
        agreement="<shard>/annotate/agreement.parquet",
        quality="<shard>/annotate/quality.parquet",
        outcomes="<shard>/annotate/outcomes.parquet",
        record="<shard>/annotate/provenance.json",
    log:
        "<logs>/annotate/{shard}.log",
    group:
        TOGETHER
    conda:
        "../envs/jipflow.yaml"
    threads: stage_threads
    resources:
        mem_mb=shard_memory(6000),
        runtime=shard_minutes(120),
    params:
        file=settings_file,
        workers=stage_workers,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow annotate --settings {params.file:q}"
        " --cases {input.cases:q} --prepared {input.prepared:q} --segmented {input.segmented:q}"
        " --volumes {input.volumes:q} --automatic {input.automatic:q} --results {params.results:q}"
        " --masks {output.masks:q} --readings {output.readings:q} --agreement {output.agreement:q}"
        " --quality {output.quality:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q} --threads {threads} {params.workers} > {log:q} 2>&1"
