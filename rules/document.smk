rule document:
    """Write the features of a shard as DICOM-SR, sr/<case_id>/<segmentation>.dcm.

    The outcomes list the files with their hashes.
    """
    input:
        again=stale("document", files=[]),
        cases=shard_cases,
        encoded="<shard>/encode/outcomes.parquet",
        measured="<shard>/measure/outcomes.parquet",
        features="<shard>/measure/features.parquet",
        failures="<shard>/measure/failures.parquet",
    output:
        outcomes="<shard>/document/outcomes.parquet",
        record="<shard>/document/provenance.json",
    log:
        "<logs>/document/{shard}.log",
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
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow document --settings {params.file:q}"
        " --cases {input.cases:q} --encoded {input.encoded:q} --measured {input.measured:q}"
        " --features {input.features:q} --failures {input.failures:q} --results {params.results:q}"
        " --outcomes {output.outcomes:q}"
        " --record {output.record:q} --threads {threads} {params.workers} > {log:q} 2>&1"
