rule measure:
    input:
        cases=shard_cases,
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        features="<shard>/measure/features.parquet",
        failures="<shard>/measure/failures.parquet",
        perturbed="<shard>/measure/perturbed.parquet",
        outcomes="<shard>/measure/outcomes.parquet",
    log:
        "<logs>/measure/{shard}.log",
    benchmark:
        "<benchmarks>/measure/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        settings=settings_hash("radiomics"),
    shell:
        "jipflow measure --settings $JIPFLOW_SETTINGS"
        " --cases {input.cases}"
        " --segmented {input.segmented} --volumes {input.volumes} --masks {input.masks}"
        " --features {output.features} --failures {output.failures}"
        " --perturbed {output.perturbed}"
        " --outcomes {output.outcomes} --threads {threads} > {log} 2>&1"
