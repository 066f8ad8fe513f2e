rule prepare:
    """Turn each series of a shard into a volume, or say why it is none."""
    input:
        cases=shard_cases,
        retrieved=RETRIEVED,
        arrived=ARRIVED,
    output:
        volumes=until_read(directory("<work>/{shard}/volumes")),
        outcomes="<shard>/prepare/outcomes.parquet",
    log:
        "<logs>/prepare/{shard}.log",
    benchmark:
        "<benchmarks>/prepare/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
    shell:
        "jipflow prepare --cases {input.cases:q} --retrieved {input.retrieved:q}"
        " --volumes {output.volumes:q} --outcomes {output.outcomes:q} --threads {threads} > {log:q} 2>&1"
