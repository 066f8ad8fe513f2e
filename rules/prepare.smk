rule prepare:
    """Turn each series of a shard into a volume, or say why it is none."""
    input:
        again=stale("prepare"),
        cases=shard_cases,
        retrieved=RETRIEVED,
        arrived=ARRIVED,
    output:
        volumes=until_read(directory("<work>/{shard}/volumes")),
        outcomes="<shard>/prepare/outcomes.parquet",
        record="<shard>/prepare/provenance.json",
    log:
        "<logs>/prepare/{shard}.log",
    group:
        TO_MASKS
    conda:
        "../envs/jipflow.yaml"
    threads: stage_threads
    resources:
        mem_mb=shard_memory(6000),
        runtime=shard_minutes(60),
    params:
        file=settings_file,
        workers=stage_workers,
    shell:
        "jipflow prepare --settings {params.file:q}"
        " --cases {input.cases:q} --retrieved {input.retrieved:q}"
        " --volumes {output.volumes:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q} --threads {threads} {params.workers} > {log:q} 2>&1"
