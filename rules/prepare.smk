rule prepare:
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
        "jipflow prepare --cases {input.cases} --retrieved {input.retrieved}"
        " --volumes {output.volumes} --outcomes {output.outcomes} --threads {threads} > {log} 2>&1"
