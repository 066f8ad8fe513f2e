rule query:
    """Ask the PACS for the series of the cohort, without retrieving any.

    New images in a PACS are found when it is asked again: snakemake ... --forcerun query
    """
    input:
        hold_results,
    output:
        series="<results>/pacs/series.parquet",
        instances="<results>/pacs/instances.parquet",
        queries="<results>/pacs/queries.json",
    log:
        "<logs>/query.log",
    benchmark:
        "<benchmarks>/query.tsv"
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        version=__version__,
        file=settings_file,
        sources=source_hash(archives=True),
        settings=settings_hash("cohort", "segmentations"),
        store=lambda wildcards: str(Path(RESULTS).parent / "retrieved"),
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        "jipflow query --settings {params.file:q}"
        " --store {params.store:q} --out {params.folder:q} > {log:q} 2>&1"
