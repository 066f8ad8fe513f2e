rule query:
    """Ask the PACS for the series of the cohort, without retrieving any.

    New images in a PACS are found when it is asked again: snakemake ... --forcerun query
    """
    input:
        hold_results,
        again=stale("query", f"{RESULTS}/pacs/provenance.json", state=erased),
    output:
        series="<results>/pacs/series.parquet",
        instances="<results>/pacs/instances.parquet",
        queries="<results>/pacs/queries.json",
        record="<results>/pacs/provenance.json",
    log:
        "<logs>/query.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        file=settings_file,
        store=lambda wildcards: str(Path(RESULTS).parent / "retrieved"),
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        "jipflow query --settings {params.file:q}"
        " --store {params.store:q} --out {params.folder:q} --record {output.record:q} > {log:q} 2>&1"
