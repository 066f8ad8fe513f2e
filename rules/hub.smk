from jipflow.hub.settings import load_hub_settings

try:
    HUB_SETTINGS = load_hub_settings(config, *CONFIG_FILES)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = ALL_RESULTS = HUB_SETTINGS.results
SETTINGS = stored_text(STORE, json_text(HUB_SETTINGS.plain()))
HUB_HASH = canonical_digest(HUB_SETTINGS.plain())
INBOX = Path(HUB_SETTINGS.hub.inbox)
ROUND = "<results>/r01"
TARGETS = ["<results>/settings.json", f"{ROUND}/report.html"]


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


check_paths()


rule hub:
    """Make the results of a round from the bundles of the sites."""
    input:
        TARGETS,


rule hub_accept:
    """Verify the bundles of the inbox, and say of each refused one why."""
    input:
        hold_results,
        # A link or a folder that lies there is for `hub accept` to refuse.
        lambda wildcards: sorted(filter(Path.is_file, INBOX.glob("*.zip"))),
    output:
        accepted=f"{ROUND}/accepted.json",
        rejected=f"{ROUND}/rejected.json",
    log:
        "<logs>/hub_accept.log",
    benchmark:
        "<benchmarks>/hub_accept.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=HUB_HASH,
    shell:
        "jipflow hub accept --settings {params.file:q}"
        " --accepted {output.accepted:q}"
        " --rejected {output.rejected:q} > {log:q} 2>&1"


rule hub_merge:
    """Merge what the accepted sites released."""
    input:
        accepted=f"{ROUND}/accepted.json",
    output:
        result=f"{ROUND}/result.json",
    log:
        "<logs>/hub_merge.log",
    benchmark:
        "<benchmarks>/hub_merge.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=HUB_HASH,
    shell:
        "jipflow hub merge --settings {params.file:q}"
        " --accepted {input.accepted:q}"
        " --out {output.result:q} > {log:q} 2>&1"


rule hub_report:
    """Write the hub's report."""
    input:
        result=f"{ROUND}/result.json",
        accepted=f"{ROUND}/accepted.json",
        rejected=f"{ROUND}/rejected.json",
    output:
        report=report(
            f"{ROUND}/report.html",
            caption="../workflow/report/hub.rst",
            category="Report",
            labels={"protocol": HUB_SETTINGS.protocol.protocol.id},
        ),
    log:
        "<logs>/hub_report.log",
    benchmark:
        "<benchmarks>/hub_report.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
    shell:
        "jipflow hub report --result {input.result:q} --accepted {input.accepted:q}"
        " --rejected {input.rejected:q} --out {output.report:q} > {log:q} 2>&1"
