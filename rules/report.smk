# Writes overlays/<case_id>/<segmentation>.png while the shard's volumes and masks are there.
rule overlay:
    input:
        cases=shard_cases,
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        outcomes="<shard>/overlay/outcomes.parquet",
    log:
        "<logs>/overlay/{shard}.log",
    benchmark:
        "<benchmarks>/overlay/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        settings=settings_hash("segmentations"),
        overlays=lambda wildcards: f"{RESULTS}/overlays",
    shell:
        'jipflow overlay --settings "$JIPFLOW_SETTINGS"'
        " --cases {input.cases:q} --volumes {input.volumes:q}"
        " --masks {input.masks:q} --out {params.overlays:q} --outcomes {output.outcomes:q}"
        " --threads {threads} > {log:q} 2>&1"


# The overlays and the benchmarks are read as well; they are there when the outcomes are collected.
rule report:
    input:
        summary="<catalog>/summary.json",
        skipped="<catalog>/skipped.parquet",
        series=[f"{folder}/series.parquet" for folder in CATALOGS],
        queries=["<results>/pacs/queries.json"] if ARCHIVES else [],
        flow="<results>/cohort/flow.json",
        cases="<results>/cohort/cases.tsv",
        outcomes="<results>/outcomes.parquet",
        features="<results>/features/features.parquet",
        failures="<results>/features/failures.parquet",
        stability="<results>/features/stability.parquet",
        quality="<results>/features/quality.parquet",
        verdict="<results>/verdict.json",
        annotations=ANNOTATIONS,
    output:
        "<results>/report/index.html",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        settings=settings_hash("protocol", "segmentations", "site.site"),
        results=lambda wildcards: RESULTS,
    shell:
        'jipflow report --settings "$JIPFLOW_SETTINGS"'
        " --results {params.results:q} --out {output:q}"
        " > {log:q} 2>&1"
