rule retrieve:
    """Fetch the series of a shard from the PACS.

    Files go to retrieved/<source>/<series>/ below the results, where they stay for other protocols.
    """
    input:
        again=stale("retrieve"),
        cases=shard_cases,
    output:
        # It goes when the shard is done: whatever needs the files later looks for them again first.
        # Where persons read cases it stays, lest `prepare` runs again when their files come.
        arrived=until_read(touch("<work>/{shard}/arrived")),
        outcomes="<shard>/retrieve/outcomes.parquet",
        record="<shard>/retrieve/provenance.json",
    log:
        "<logs>/retrieve/{shard}.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        file=settings_file,
    shell:
        "jipflow retrieve --settings {params.file:q} --cases {input.cases:q}"
        " --outcomes {output.outcomes:q}"
        " --record {output.record:q} > {log:q} 2>&1"
