rule collect:
    """Join the tables of all shards, and count the cases that failed or wait."""
    input:
        again=stale(
            "collect",
            f"{RESULTS}/features/provenance.json",
            inputs=shard_records(*STAGES),
        ),
        cohort="<results>/cohort/outcomes.parquet",
        outcomes=shards(
            "<results>/shards/{shard}/{stage}/outcomes.parquet",
            stage=STAGES,
        ),
        quality=shards(
            "<results>/shards/{shard}/{stage}/quality.parquet",
            stage=SEGMENTING,
        ),
        features=shards("<results>/shards/{shard}/measure/features.parquet"),
        failures=shards("<results>/shards/{shard}/measure/failures.parquet"),
        perturbed=shards("<results>/shards/{shard}/measure/perturbed.parquet"),
        readings=annotations("readings"),
        agreement=annotations("agreement"),
    output:
        outcomes="<results>/outcomes.parquet",
        features="<results>/features/features.parquet",
        failures="<results>/features/failures.parquet",
        stability="<results>/features/stability.parquet",
        quality="<results>/features/quality.parquet",
        verdict="<results>/verdict.json",
        annotations=ANNOTATIONS,
        record="<results>/features/provenance.json",
    log:
        "<logs>/collect.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow collect --settings {params.file:q}"
        " --results {params.results:q}"
        " --outcomes {input.cohort:q} {input.outcomes:q}"
        " --quality {input.quality:q} --features {input.features:q}"
        " --failures {input.failures:q} --perturbed {input.perturbed:q}"
        " --readings {input.readings:q} --agreement {input.agreement:q}"
        " --record {output.record:q} > {log:q} 2>&1"


rule accept:
    """Fail where more cases failed or wait than the protocol tolerates.

    The report stands before that, so that it can say what went wrong.
    """
    input:
        again=stale("accept", f"{RESULTS}/accepted"),
        verdict="<results>/verdict.json",
        report="<results>/report/index.html",
    output:
        record="<results>/accepted",
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
