# New images in a source are found when the catalog is made again: snakemake ... --forcerun catalog
rule catalog:
    output:
        series="<catalog>/series.parquet",
        instances="<catalog>/instances.parquet",
        skipped="<catalog>/skipped.parquet",
        summary="<catalog>/summary.json",
    log:
        "<catalog>/catalog.log",
    benchmark:
        "<catalog>/catalog.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        sources=source_hash(archives=False),
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        'jipflow catalog --settings "$JIPFLOW_SETTINGS"'
        " --out {params.folder:q} --threads {threads}"
        " > {log:q} 2>&1"
