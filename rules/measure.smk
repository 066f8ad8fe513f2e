rule measure:
    """Measure the radiomic features of each segment of a shard."""
    input:
        again=stale("measure"),
        cases=shard_cases,
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        features="<shard>/measure/features.parquet",
        failures="<shard>/measure/failures.parquet",
        perturbed="<shard>/measure/perturbed.parquet",
        outcomes="<shard>/measure/outcomes.parquet",
        record="<shard>/measure/provenance.json",
    log:
        "<logs>/measure/{shard}.log",
    # `document` waits for it.
    priority: 1
    group:
        TOGETHER
    conda:
        "../envs/jipflow.yaml"
    threads: stage_threads
    resources:
        mem_mb=shard_memory(8000),
        runtime=shard_minutes(240),
    params:
        file=settings_file,
        workers=stage_workers,
    shell:
        "jipflow measure --settings {params.file:q}"
        " --cases {input.cases:q}"
        " --segmented {input.segmented:q} --volumes {input.volumes:q} --masks {input.masks:q}"
        " --features {output.features:q} --failures {output.failures:q}"
        " --perturbed {output.perturbed:q}"
        " --outcomes {output.outcomes:q}"
        " --record {output.record:q} --threads {threads} {params.workers} > {log:q} 2>&1"
