rule release:
    input:
        features="<results>/features/features.parquet",
        cases="<results>/cohort/cases.tsv",
        outcomes="<results>/outcomes.parquet",
        verdict="<results>/verdict.json",
        accepted="<results>/accepted",
    output:
        aggregates=f"{RELEASE}/aggregates.json",
        disclosure=f"{RELEASE}/disclosure.json",
        page=f"{RELEASE}/disclosure.html",
    log:
        "<logs>/release.log",
    benchmark:
        "<benchmarks>/release.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        settings=settings_hash("analyses", "disclosure", "site.disclosure", "site.hub"),
        folder=lambda wildcards: RELEASE,
    shell:
        'jipflow release build --settings "$JIPFLOW_SETTINGS"'
        " --features {input.features:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q} --verdict {input.verdict:q}"
        " --out {params.folder:q} > {log:q} 2>&1"


rule bundle:
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
        folder=lambda wildcards: RELEASE,
        out=lambda wildcards: f"{RESULTS}/bundles",
    shell:
        'jipflow release bundle --settings "$JIPFLOW_SETTINGS"'
        " --release {params.folder:q}"
        " --out {params.out:q} > {log:q} 2>&1"
