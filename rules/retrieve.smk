localrules:
    retrieve,


# Files go to retrieved/<source>/<series>/ below the results, where they stay for other protocols.
# `arrived` goes when the shard is done: whatever needs the files later looks for them again first.
# Where persons read cases it stays, lest `prepare` runs again when their files come.
rule retrieve:
    input:
        cases=shard_cases,
    output:
        arrived=until_read(touch("<work>/{shard}/arrived")),
        outcomes="<shard>/retrieve/outcomes.parquet",
    log:
        "<logs>/retrieve/{shard}.log",
    benchmark:
        "<benchmarks>/retrieve/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        version=__version__,
    shell:
        'jipflow retrieve --settings "$JIPFLOW_SETTINGS" --cases {input.cases:q}'
        " --outcomes {output.outcomes:q} > {log:q} 2>&1"
