from jipflow.hub.inbox import inbox_state
from jipflow.hub.settings import load_hub_settings

try:
    HUB_SETTINGS = load_hub_settings(config, *CONFIG_FILES)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = ALL_RESULTS = HUB_SETTINGS.results
SETTINGS = stored_text(STORE, json_text(HUB_SETTINGS.plain()))
# What lies in the inbox, in place of its files: Snakemake would take some names for patterns.
INBOX = stored_text(STORE, json_text(inbox_state(Path(HUB_SETTINGS.hub.inbox))))
ROUND = "<results>/r01"
AFTER_COHORT = None
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
        inbox=INBOX,
        settings=SETTINGS,
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
        # No output: it is the hub's memory, which Snakemake would empty before the job.
        messages=lambda wildcards: f"{RESULTS}/r01/messages",
    shell:
        "jipflow hub accept --settings {input.settings:q} --messages {params.messages:q}"
        " --accepted {output.accepted:q}"
        " --rejected {output.rejected:q} > {log:q} 2>&1"


rule hub_merge:
    """Merge what the accepted sites released."""
    input:
        accepted=f"{ROUND}/accepted.json",
        settings=SETTINGS,
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
    shell:
        "jipflow hub merge --settings {input.settings:q}"
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
