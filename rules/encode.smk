rule encode:
    """Write the segmentations of a shard as DICOM-SEG, seg/<case_id>/<segmentation>.dcm.

    The outcomes list the files with their hashes.
    """
    input:
        again=stale("encode", files=[]),
        cases=shard_cases,
        arrived=ARRIVED,
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        outcomes="<shard>/encode/outcomes.parquet",
        record="<shard>/encode/provenance.json",
    log:
        "<logs>/encode/{shard}.log",
    # `document` waits for it.
    priority: 1
    group:
        TOGETHER
    conda:
        "../envs/jipflow.yaml"
    threads: stage_threads
    resources:
        mem_mb=shard_memory(6000),
        runtime=shard_minutes(120),
    params:
        file=settings_file,
        workers=stage_workers,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow encode --settings {params.file:q}"
        " --cases {input.cases:q} --segmented {input.segmented:q}"
        " --volumes {input.volumes:q} --masks {input.masks:q} --results {params.results:q}"
        " --outcomes {output.outcomes:q} --record {output.record:q}"
        " --threads {threads} {params.workers} > {log:q} 2>&1"
