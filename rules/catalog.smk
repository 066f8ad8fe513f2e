rule catalog:
    """Read the headers of all files of the site's folders into the series catalog.

    New images in a source are found when it is made again: snakemake ... --forcerun catalog
    """
    input:
        hold_results,
        again=stale(
            "catalog",
            str(Path(ALL_RESULTS, "catalog", "provenance.json")),
            state=erased,
        ),
    output:
        series="<catalog>/series.parquet",
        instances="<catalog>/instances.parquet",
        skipped="<catalog>/skipped.parquet",
        lost="<catalog>/lost.parquet",
        summary="<catalog>/summary.json",
        record="<catalog>/provenance.json",
    log:
        "<catalog>/catalog.log",
    conda:
        "../envs/jipflow.yaml"
    threads: 4
    resources:
        mem_mb=each_try(2000),
        runtime=840,
    params:
        file=settings_file,
        folder=lambda wildcards, output: str(Path(output.series).parent),
    shell:
        "jipflow catalog --settings {params.file:q}"
        " --out {params.folder:q} --record {output.record:q} --threads {threads}"
        " > {log:q} 2>&1"
