rule overlay:
    """Draw the segmentations of a shard over their images, overlays/<case_id>/<segmentation>.png.

    It runs while the volumes and masks are there.
    """
    input:
        again=stale("overlay", files=[]),
        cases=shard_cases,
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        outcomes="<shard>/overlay/outcomes.parquet",
        record="<shard>/overlay/provenance.json",
    log:
        "<logs>/overlay/{shard}.log",
    group:
        TOGETHER
    conda:
        "../envs/jipflow.yaml"
    threads: stage_threads
    resources:
        mem_mb=shard_memory(4000),
        runtime=shard_minutes(60),
    params:
        file=settings_file,
        workers=stage_workers,
        overlays=lambda wildcards: f"{RESULTS}/overlays",
    shell:
        "jipflow overlay --settings {params.file:q}"
        " --cases {input.cases:q} --segmented {input.segmented:q} --volumes {input.volumes:q}"
        " --masks {input.masks:q} --out {params.overlays:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q}"
        " --threads {threads} {params.workers} > {log:q} 2>&1"


rule report:
    """Write the site's report.

    It shows the overlays and what jobs took as well, which are there when outcomes are collected.
    """
    input:
        again=stale("report", f"{JOINED}/report/provenance.json"),
        summary="<catalog>/summary.json",
        skipped="<catalog>/skipped.parquet",
        series=[f"{folder}/series.parquet" for folder in CATALOGS],
        queries=["<results>/pacs/queries.json"] if ARCHIVES else [],
        flow="<results>/cohort/flow.json",
        cases="<results>/cohort/cases.tsv",
        outcomes="<joined>/outcomes.parquet",
        features="<joined>/features/features.parquet",
        failures="<joined>/features/failures.parquet",
        stability="<joined>/features/stability.parquet",
        quality="<joined>/features/quality.parquet",
        verdict="<joined>/verdict.json",
        annotations=ANNOTATIONS,
        clinical=CLINICAL,
    output:
        page=report(
            "<joined>/report/index.html",
            caption="../workflow/report/site.rst",
            category="Report",
            labels={"site": SITE_ID, "protocol": SITE_SETTINGS.protocol_id},
        ),
        record="<joined>/report/provenance.json",
    log:
        "<logs>/report.log",
    # Before `accept`, which may end the run.
    priority: 1
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(4000),
        runtime=30,
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow report --settings {params.file:q} --clinical {input.clinical:q}"
        " --results {params.results:q} --features {input.features:q} --cases {input.cases:q}"
        " --out {output.page:q} --record {output.record:q}"
        " > {log:q} 2>&1"
