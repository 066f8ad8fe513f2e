from jipflow.cases import StageError
from jipflow.federate.release import approved_bundle, read_approval

RELEASE = f"{RESULTS}/release/r01"


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
    params:
        version=__version__,
        settings=settings_hash("analyses", "disclosure", "site.disclosure", "site.hub"),
        folder=RELEASE,
    shell:
        "jipflow release build --settings {SETTINGS} --features {input.features}"
        " --cases {input.cases} --outcomes {input.outcomes} --verdict {input.verdict}"
        " --out {params.folder} > {log} 2>&1"


def approval(wildcards):
    """Input function: a person's approval, which no rule can make."""
    try:
        read_approval(Path(RELEASE))
    except (StageError, ConfigError) as error:
        raise WorkflowError(str(error)) from None
    return f"{RELEASE}/approval.json"


rule bundle:
    input:
        approval=approval,
        release=[f"{RELEASE}/aggregates.json", f"{RELEASE}/disclosure.json"],
    output:
        bundle=approved_bundle(SITE_SETTINGS, Path(RELEASE), Path(RESULTS, "bundles")),
    log:
        "<logs>/bundle.log",
    params:
        version=__version__,
        folder=RELEASE,
        out=f"{RESULTS}/bundles",
    shell:
        "jipflow release bundle --settings {SETTINGS} --release {params.folder}"
        " --out {params.out} > {log} 2>&1"
