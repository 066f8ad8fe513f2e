rule segment:
    input:
        cases=shard_cases,
        prepared="<shard>/prepare/outcomes.parquet",
        volumes="<work>/{shard}/volumes",
    output:
        masks=temp(directory("<work>/{shard}/masks")),
        outcomes="<shard>/segment/outcomes.parquet",
    params:
        version=__version__,
        settings=settings_hash("segmentations"),
    resources:
        gpu=int(SITE_SETTINGS.site["processing"]["device"] == "cuda"),
    log:
        "<logs>/segment/{shard}.log",
    benchmark:
        "<benchmarks>/segment/{shard}.tsv"
    shell:
        "jipflow segment --settings {SETTINGS} --cases {input.cases} --prepared {input.prepared}"
        " --volumes {input.volumes} --masks {output.masks} --outcomes {output.outcomes}"
        " --threads {threads} > {log} 2>&1"
