localrules:
    query,


# New images in a PACS are found when it is asked again: snakemake ... --forcerun query
rule query:
    output:
        series="<results>/pacs/series.parquet",
        instances="<results>/pacs/instances.parquet",
        queries="<results>/pacs/queries.json",
    log:
        "<logs>/query.log",
    benchmark:
        "<benchmarks>/query.tsv"
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        version=__version__,
        sources=source_hash(archives=True),
        settings=settings_hash("cohort", "segmentations"),
        store=lambda wildcards: str(Path(RESULTS).parent / "retrieved"),
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        'jipflow query --settings "$JIPFLOW_SETTINGS"'
        " --store {params.store:q} --out {params.folder:q} > {log:q} 2>&1"
