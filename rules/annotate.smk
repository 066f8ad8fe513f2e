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
        quality="<shard>/annotate/quality.parquet",
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
        'jipflow annotate --settings "$JIPFLOW_SETTINGS"'
        " --cases {input.cases:q} --prepared {input.prepared:q} --segmented {input.segmented:q}"
        " --volumes {input.volumes:q} --automatic {input.automatic:q} --results {params.results:q}"
        " --masks {output.masks:q} --readings {output.readings:q} --agreement {output.agreement:q}"
        " --quality {output.quality:q} --outcomes {output.outcomes:q} --threads {threads} > {log:q} 2>&1"
