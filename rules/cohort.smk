checkpoint cohort:
    input:
        series="<catalog>/series.parquet",
        instances="<catalog>/instances.parquet",
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
        settings=settings_hash("cohort", "site.identity", "site.processing"),
        catalog=lambda wildcards, input: str(Path(input.series).parent),
        folder=lambda wildcards, output: str(Path(output.cases).parent),
    shell:
        "jipflow cohort --settings $JIPFLOW_SETTINGS"
        " --catalog {params.catalog} --out {params.folder}"
        " > {log} 2>&1"
