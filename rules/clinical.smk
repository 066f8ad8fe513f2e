rule clinical:
    """Read the clinical variables of the cohort's cases from the site's file or database.

    New records of a PostgreSQL database are found when it is made again:
    snakemake ... --forcerun clinical
    """
    input:
        again=stale("clinical", f"{RESULTS}/clinical/provenance.json"),
        cases="<results>/cohort/cases.tsv",
        series=[f"{folder}/series.parquet" for folder in CATALOGS],
    output:
        values="<results>/clinical/clinical.parquet",
        missing="<results>/clinical/missing.parquet",
        record="<results>/clinical/provenance.json",
    log:
        "<logs>/clinical.log",
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(2000),
        runtime=30,
    params:
        file=settings_file,
        catalogs=lambda wildcards, input: [
            str(Path(path).parent) for path in input.series
        ],
        folder=lambda wildcards, output: str(Path(output.values).parent),
    shell:
        "jipflow clinical --settings {params.file:q}"
        " --cases {input.cases:q} --catalog {params.catalogs:q} --out {params.folder:q}"
        " --record {output.record:q} > {log:q} 2>&1"
