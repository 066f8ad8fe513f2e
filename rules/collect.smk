rule collect:
    """Join the tables of all shards, and count the cases that failed or wait."""
    input:
        again=stale(
            "collect",
            f"{JOINED}/features/provenance.json",
            inputs=shard_records(*STAGES),
            state=lambda wildcards: SUBSET.state if SUBSET else "",
        ),
        cohort="<results>/cohort/outcomes.parquet",
        # What no other stage of a shard reads; the other tables are made before that.
        outcomes=tables_of_shards(
            "<results>/shards/{shard}/{stage}/outcomes.parquet",
            stage=LAST,
        ),
        quality=tables_of_shards(
            "<results>/shards/{shard}/{stage}/quality.parquet",
            stage=SEGMENTING,
        ),
        perturbed=tables_of_shards("<results>/shards/{shard}/measure/perturbed.parquet"),
        readings=annotations("readings"),
        agreement=annotations("agreement"),
    output:
        outcomes="<joined>/outcomes.parquet",
        features="<joined>/features/features.parquet",
        failures="<joined>/features/failures.parquet",
        stability="<joined>/features/stability.parquet",
        quality="<joined>/features/quality.parquet",
        verdict="<joined>/verdict.json",
        annotations=ANNOTATIONS,
        record="<joined>/features/provenance.json",
    log:
        "<logs>/collect.log",
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(4000),
        runtime=30,
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
        subset=lambda wildcards: SUBSET.words if SUBSET else [],
    shell:
        "jipflow collect --settings {params.file:q}"
        " --results {params.results:q} --only {params.subset:q}"
        " --record {output.record:q} > {log:q} 2>&1"


rule accept:
    """Fail where more cases failed or wait than the protocol tolerates.

    The report, which says what went wrong, is ready to be made when this is, and goes first.
    """
    input:
        again=stale("accept", f"{JOINED}/accepted"),
        verdict="<joined>/verdict.json",
        clinical=CLINICAL,
    output:
        record="<joined>/accepted",
    log:
        "<logs>/accept.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
    shell:
        "jipflow accept --settings {params.file:q} --verdict {input.verdict:q}"
        " --record {output.record:q} > {log:q} 2>&1 || (cat {log:q}; exit 1)"
