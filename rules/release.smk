checkpoint receive:
    """Take the hub's messages from the inbox: which round is open, and what it asks for."""
    input:
        # The site's secret, which seals the ledger, is made on the way there.
        ancient("<results>/cohort/cases.tsv"),
        again=once_fetched(
            stale("receive", f"{RESULTS}/rounds/provenance.json", state=heard)
        ),
    output:
        standing="<results>/rounds/standing.json",
        record="<results>/rounds/provenance.json",
    log:
        "<logs>/receive.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow receive --settings {params.file:q} --results {params.results:q}"
        " --standing {output.standing:q} --record {output.record:q} > {log:q} 2>&1"


rule release:
    """Make the candidate release of the round that is open."""
    input:
        of_round("release/r{round}/disclosure.html"),


rule candidate:
    """Compute what a round asks for, and pass it through the disclosure gate."""
    input:
        again=stale("candidate", f"{RESULTS}/release/r{{round}}.provenance.json"),
        state=of_round("rounds/r{round}/state.json"),
        features="<results>/features/features.parquet",
        failures="<results>/features/failures.parquet",
        clinical=CLINICAL,
        missing=MISSING,
        cases="<results>/cohort/cases.tsv",
        outcomes="<results>/outcomes.parquet",
        verdict="<results>/verdict.json",
        accepted="<results>/accepted",
    output:
        aggregates=f"{RELEASE}/aggregates.json",
        disclosure=f"{RELEASE}/disclosure.json",
        page=report(
            f"{RELEASE}/disclosure.html",
            caption="../workflow/report/disclosure.rst",
            category="Release",
            labels={"site": SITE_ID, "protocol": SITE_SETTINGS.protocol_id},
        ),
        built=f"{RELEASE}/built.json",
        terms=f"{RELEASE}/terms.json",
        review=f"{RELEASE}/review.json",
        record=f"{RELEASE}.provenance.json",
    log:
        "<logs>/candidate/r{round}.log",
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(2000),
        runtime=30,
    params:
        file=settings_file,
        folder=lambda wildcards: f"{RESULTS}/release/r{wildcards.round}",
        bundles=lambda wildcards: f"{RESULTS}/bundles",
        # No outputs: they are for the ledger, and never lie below a release.
        behind=lambda wildcards: f"{RESULTS}/behind/r{wildcards.round}",
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow release build --settings {params.file:q}"
        " --features {input.features:q} --failures {input.failures:q}"
        " --clinical {input.clinical:q} --missing {input.missing:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q} --verdict {input.verdict:q}"
        " --state {input.state:q}"
        " --out {params.folder:q} --bundles {params.bundles:q} --behind {params.behind:q}"
        " --results {params.results:q} --record {output.record:q} > {log:q} 2>&1"


rule bundle:
    """Pack a release that persons have approved, and seal it to the hub."""
    input:
        again=stale("bundle", f"{RESULTS}/bundles/provenance.json", state=packed),
        standing="<results>/rounds/standing.json",
        made=of_round("release/r{round}.provenance.json"),
        page=of_round("release/r{round}/disclosure.html"),
    output:
        record="<results>/bundles/provenance.json",
    log:
        "<logs>/bundle.log",
    conda:
        "../envs/jipflow.yaml"
    resources:
        mem_mb=each_try(2000),
        runtime=30,
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow release bundle --settings {params.file:q} --standing {input.standing:q}"
        " --made {input.made:q} --results {params.results:q}"
        " --record {output.record:q} > {log:q} 2>&1"
