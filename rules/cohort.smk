checkpoint cohort:
    """Select the series of the protocol, group them into cases and deal these to shards."""
    input:
        series=[f"{folder}/series.parquet" for folder in CATALOGS],
        instances=[f"{folder}/instances.parquet" for folder in CATALOGS],
    output:
        cases="<results>/cohort/cases.tsv",
        flow="<results>/cohort/flow.json",
        outcomes="<results>/cohort/outcomes.parquet",
    log:
        "<logs>/cohort.log",
    benchmark:
        "<benchmarks>/cohort.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=settings_hash("cohort", "site.identity", "site.processing"),
        catalogs=lambda wildcards, input: [
            str(Path(path).parent) for path in input.series
        ],
        folder=lambda wildcards, output: str(Path(output.cases).parent),
    shell:
        "jipflow cohort --settings {params.file:q}"
        " --catalog {params.catalogs:q} --out {params.folder:q}"
        " > {log:q} 2>&1"
