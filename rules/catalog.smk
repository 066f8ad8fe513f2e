rule catalog:
    """Read the headers of all files of the site's folders into the series catalog.

    New images in a source are found when it is made again: snakemake ... --forcerun catalog
    """
    input:
        hold_results,
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
        file=settings_file,
        sources=source_hash(archives=False),
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        "jipflow catalog --settings {params.file:q}"
        " --out {params.folder:q} --threads {threads}"
        " > {log:q} 2>&1"
