checkpoint cohort:
    """Select the series of the protocol, group them into cases and deal these to shards."""
    input:
        again=stale(
            "cohort",
            f"{RESULTS}/cohort/provenance.json",
            inputs=catalog_records,
            state=consenting,
        ),
        series=[f"{folder}/series.parquet" for folder in CATALOGS],
        instances=[f"{folder}/instances.parquet" for folder in CATALOGS],
    output:
        cases="<results>/cohort/cases.tsv",
        flow="<results>/cohort/flow.json",
        outcomes="<results>/cohort/outcomes.parquet",
        record="<results>/cohort/provenance.json",
    log:
        "<logs>/cohort.log",
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(4000),
        runtime=30,
    params:
        file=settings_file,
        catalogs=lambda wildcards, input: [
            str(Path(path).parent) for path in input.series
        ],
        results=lambda wildcards: str(ALL_RESULTS),
        folder=lambda wildcards, output: str(Path(output.cases).parent),
    shell:
        "jipflow cohort --settings {params.file:q}"
        " --catalog {params.catalogs:q} --out {params.folder:q}"
        " --results {params.results:q} --record {output.record:q}"
        " > {log:q} 2>&1"


rule apart:
    """Set the instances apart of a case that a try is of, or of what is left of its shard."""
    input:
        again=apart_again,
        shard=whole_shard,
    output:
        cases="<results>/cohort/apart/{shard}.parquet",
    log:
        "<logs>/apart/{shard}.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    params:
        cases=lambda wildcards: sorted(jobs().cases[wildcards.shard]),
    shell:
        "jipflow apart --shard {input.shard:q} --case {params.cases:q} --out {output.cases:q}"
        " > {log:q} 2>&1"
