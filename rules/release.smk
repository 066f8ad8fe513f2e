rule release:
    """Compute the protocol's analyses and pass them through the disclosure gate."""
    input:
        again=stale("release", f"{RESULTS}/release/provenance.json"),
        features="<results>/features/features.parquet",
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
        record="<results>/release/provenance.json",
    log:
        "<logs>/release.log",
    benchmark:
        "<benchmarks>/release.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        folder=lambda wildcards: RELEASE,
        bundles=lambda wildcards: f"{RESULTS}/bundles",
        # No outputs: they are for the ledger, and never lie below a release.
        behind=lambda wildcards: BEHIND,
        results=lambda wildcards: RESULTS,
    shell:
        "jipflow release build --settings {params.file:q}"
        " --features {input.features:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q} --verdict {input.verdict:q}"
        " --out {params.folder:q} --bundles {params.bundles:q} --behind {params.behind:q}"
        " --results {params.results:q} --record {output.record:q} > {log:q} 2>&1"


rule bundle:
    """Sign and pack a release that a person has approved."""
    input:
        again=stale("bundle", f"{RESULTS}/bundles/provenance.json"),
        made="<results>/release/provenance.json",
        approval=approval,
        release=[
            f"{RELEASE}/{name}"
            for name in ("aggregates.json", "disclosure.json", "disclosure.html")
        ],
    output:
        bundle=approved_bundle(SITE_SETTINGS, Path(RELEASE), Path(RESULTS, "bundles")),
        record="<results>/bundles/provenance.json",
    log:
        "<logs>/bundle.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        folder=lambda wildcards: RELEASE,
        behind=lambda wildcards: BEHIND,
        results=lambda wildcards: RESULTS,
        out=lambda wildcards: f"{RESULTS}/bundles",
    shell:
        "jipflow release bundle --settings {params.file:q}"
        " --release {params.folder:q} --made {input.made:q}"
        " --behind {params.behind:q} --results {params.results:q}"
        " --out {params.out:q} --record {output.record:q} > {log:q} 2>&1"
