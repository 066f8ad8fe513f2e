from jipflow.hub.inbox import inbox_digest
from jipflow.hub.settings import load_hub_settings

try:
    HUB_SETTINGS = load_hub_settings(config, *CONFIG_FILES)
except ConfigError as error:
    stop_with(str(error))

RESULTS = ALL_RESULTS = str(Path(HUB_SETTINGS.results))
SETTINGS = stored_settings(json_text(HUB_SETTINGS.plain()))
ROUND = "<results>/r01"
AFTER_COHORT = None
TARGETS = ["<results>/settings.json", f"{ROUND}/report.html"]


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


check_paths()


def stale(stage, state=None):
    """Input function that names no file, and has a job run again that would now write another."""

    @looking
    def nothing(wildcards):
        path = Path(RESULTS, "r01", f"{stage}.provenance.json")
        check_record(
            path,
            stage,
            HUB_SETTINGS.parts(stage),
            **({"state": state()} if state else {}),
        )
        return []

    return nothing


def inbox():
    """The hash of what the sites have sent."""
    return inbox_digest(Path(HUB_SETTINGS.hub.inbox))


rule hub:
    """Make the results of a round from the bundles of the sites."""
    input:
        TARGETS,


rule hub_accept:
    """Verify the bundles of the inbox, and say of each refused one why."""
    input:
        hold_results,
        again=stale("hub_accept", inbox),
    output:
        accepted=f"{ROUND}/accepted.json",
        rejected=f"{ROUND}/rejected.json",
        record=f"{ROUND}/hub_accept.provenance.json",
    log:
        "<logs>/hub_accept.log",
    benchmark:
        "<benchmarks>/hub_accept.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        # No output: it is the hub's memory, which Snakemake would empty before the job.
        messages=lambda wildcards: f"{RESULTS}/r01/messages",
    shell:
        "jipflow hub accept --settings {params.file:q} --messages {params.messages:q}"
        " --accepted {output.accepted:q}"
        " --rejected {output.rejected:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_merge:
    """Merge what the accepted sites released."""
    input:
        again=stale("hub_merge"),
        made_of=f"{ROUND}/hub_accept.provenance.json",
        accepted=f"{ROUND}/accepted.json",
    output:
        result=f"{ROUND}/result.json",
        record=f"{ROUND}/hub_merge.provenance.json",
    log:
        "<logs>/hub_merge.log",
    benchmark:
        "<benchmarks>/hub_merge.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
    shell:
        "jipflow hub merge --settings {params.file:q}"
        " --accepted {input.accepted:q}"
        " --made-of {input.made_of:q}"
        " --out {output.result:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_report:
    """Write the hub's report."""
    input:
        again=stale("hub_report"),
        made_of=expand(
            f"{ROUND}/{{stage}}.provenance.json", stage=["hub_accept", "hub_merge"]
        ),
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
        record=f"{ROUND}/hub_report.provenance.json",
    log:
        "<logs>/hub_report.log",
    benchmark:
        "<benchmarks>/hub_report.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
    shell:
        "jipflow hub report --settings {params.file:q} --result {input.result:q} --accepted {input.accepted:q}"
        " --rejected {input.rejected:q} --out {output.report:q}"
        " --made-of {input.made_of:q} --record {output.record:q} > {log:q} 2>&1"
