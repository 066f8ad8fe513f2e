rule release:
    """Compute the protocol's analyses and pass them through the disclosure gate."""
    input:
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
    log:
        "<logs>/release.log",
    benchmark:
        "<benchmarks>/release.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        protocol=SITE_SETTINGS.protocol_sha256,
        settings=settings_hash("site.site", "site.disclosure", "site.hub"),
        folder=lambda wildcards: RELEASE,
        bundles=lambda wildcards: f"{RESULTS}/bundles",
    shell:
        "jipflow release build --settings {params.file:q}"
        " --features {input.features:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q} --verdict {input.verdict:q}"
        " --out {params.folder:q} --bundles {params.bundles:q} > {log:q} 2>&1"


rule bundle:
    """Sign and pack a release that a person has approved."""
    input:
        approval=approval,
        release=[f"{RELEASE}/aggregates.json", f"{RELEASE}/disclosure.json"],
    output:
        bundle=approved_bundle(SITE_SETTINGS, Path(RELEASE), Path(RESULTS, "bundles")),
    log:
        "<logs>/bundle.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        protocol=SITE_SETTINGS.protocol_sha256,
        settings=settings_hash("site.site", "site.hub", "site.identity"),
        folder=lambda wildcards: RELEASE,
        out=lambda wildcards: f"{RESULTS}/bundles",
    shell:
        "jipflow release bundle --settings {params.file:q}"
        " --release {params.folder:q}"
        " --out {params.out:q} > {log:q} 2>&1"
