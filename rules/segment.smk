rule segment:
    """Find the regions of the protocol on the volumes of a shard, each by its engine."""
    input:
        again=stale("segment"),
        cases=shard_cases,
        arrived=ARRIVED,
        prepared="<shard>/prepare/outcomes.parquet",
        retrieved=RETRIEVED,
        volumes="<work>/{shard}/volumes",
    output:
        masks=until_read(directory(AUTOMATIC)),
        quality="<shard>/segment/quality.parquet",
        outcomes="<shard>/segment/outcomes.parquet",
        record="<shard>/segment/provenance.json",
    log:
        "<logs>/segment/{shard}.log",
    # Before what else is ready: a GPU idles while there is none.
    priority: 2
    group:
        TO_MASKS
    conda:
        f"../envs/{NETWORKS}.yaml"
    threads: model_threads if SITE_SETTINGS.runs_models else stage_threads
    resources:
        mem_mb=shard_memory(12000),
        runtime=shard_minutes(480),
        gpu=int(SITE_SETTINGS.uses_gpu),
    params:
        file=settings_file,
        workers="" if SITE_SETTINGS.runs_models else stage_workers,
    shell:
        "jipflow segment --settings {params.file:q}"
        " --cases {input.cases:q} --prepared {input.prepared:q}"
        " --retrieved {input.retrieved:q}"
        " --volumes {input.volumes:q} --masks {output.masks:q}"
        " --quality {output.quality:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q}"
        " --threads {threads} {params.workers} > {log:q} 2>&1"
