from jipflow.hub.rounds import accept_state, hub_state, hub_thread
from jipflow.hub.settings import load_hub_settings

try:
    HUB_SETTINGS = load_hub_settings(config, *CONFIG_FILES)
    # The last round that was opened; a run goes through one.
    ROUND = max(hub_thread(HUB_SETTINGS).round, 1)
except (ConfigError, StageError) as error:
    stop_with(str(error))

# Of this process and of all that it starts, as at a site.
os.umask(HUB_SETTINGS.hub.permissions.mask)

RESULTS = ALL_RESULTS = str(Path(HUB_SETTINGS.results))
SETTINGS = stored_settings(json_text(HUB_SETTINGS.plain()))
AFTER_COHORT = None
OF_ROUND = f"<results>/rounds/r{ROUND:02d}"
BEFORE = [f"<results>/rounds/r{ROUND - 1:02d}/result.json"] if ROUND > 1 else []
INWAY, OUTWAY = HUB_SETTINGS.ways()
# What puts messages into the folder that is sent.
PACKED = [f"{OF_ROUND}/hub_open.provenance.json", f"{OF_ROUND}/outlook.json"]
TARGETS = [
    "<results>/settings.json",
    f"{OF_ROUND}/crate.zip",
    f"{OF_ROUND}/outlook.json",
]

if OUTWAY.address:
    TARGETS.append("<results>/exchange/sent.json")


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",


check_paths()


def stale(stage, state=None):
    """Input function that names no file, and has a job run again that would now write another."""

    @looking
    def nothing(wildcards):
        path = Path(RESULTS, "rounds", f"r{ROUND:02d}", f"{stage}.provenance.json")
        check_record(
            path,
            stage,
            HUB_SETTINGS.parts(stage),
            **(
                {"state": state(HUB_SETTINGS, hub_thread(HUB_SETTINGS))}
                if state
                else {}
            ),
        )
        return []

    return nothing


rule hub:
    """Make the results of a round from the bundles of the sites."""
    input:
        TARGETS,


rule hub_open:
    """Open the first round, and put what the hub says to the sites into the outbox."""
    input:
        hold_results,
        again=stale("hub_open", hub_state),
    output:
        record=f"{OF_ROUND}/hub_open.provenance.json",
    log:
        "<logs>/hub_open.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
    shell:
        "jipflow hub open --settings {params.file:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_accept:
    """Verify the messages of the inbox, and say of each refused one why."""
    input:
        again=once_fetched(stale("hub_accept", accept_state)),
        opened=f"{OF_ROUND}/hub_open.provenance.json",
    output:
        accepted=f"{OF_ROUND}/accepted.json",
        rejected=f"{OF_ROUND}/rejected.json",
        record=f"{OF_ROUND}/hub_accept.provenance.json",
    log:
        "<logs>/hub_accept.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        round=ROUND,
    shell:
        "jipflow hub accept --settings {params.file:q} --round {params.round}"
        " --accepted {output.accepted:q}"
        " --rejected {output.rejected:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_merge:
    """Merge what the accepted sites released."""
    input:
        again=stale("hub_merge"),
        made_of=f"{OF_ROUND}/hub_accept.provenance.json",
        accepted=f"{OF_ROUND}/accepted.json",
        before=BEFORE,
    output:
        result=f"{OF_ROUND}/result.json",
        record=f"{OF_ROUND}/hub_merge.provenance.json",
    log:
        "<logs>/hub_merge.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        round=ROUND,
    shell:
        "jipflow hub merge --settings {params.file:q} --round {params.round}"
        " --accepted {input.accepted:q} --before {input.before:q}"
        " --made-of {input.made_of:q}"
        " --out {output.result:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_report:
    """Write the hub's report."""
    input:
        again=stale("hub_report"),
        made_of=expand(
            f"{OF_ROUND}/{{stage}}.provenance.json",
            stage=["hub_accept", "hub_merge"],
        ),
        result=f"{OF_ROUND}/result.json",
        accepted=f"{OF_ROUND}/accepted.json",
        rejected=f"{OF_ROUND}/rejected.json",
    output:
        report=report(
            f"{OF_ROUND}/report.html",
            caption="../workflow/report/hub.rst",
            category="Report",
            labels={
                "protocol": HUB_SETTINGS.protocol.protocol.id,
                "round": str(ROUND),
            },
        ),
        tables=directory(f"{OF_ROUND}/tables"),
        record=f"{OF_ROUND}/hub_report.provenance.json",
    log:
        "<logs>/hub_report.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        round=ROUND,
    shell:
        "jipflow hub report --settings {params.file:q} --round {params.round}"
        " --result {input.result:q} --accepted {input.accepted:q}"
        " --rejected {input.rejected:q} --out {output.report:q}"
        " --made-of {input.made_of:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_crate:
    """Describe the round as a Research Object Crate."""
    input:
        again=stale("hub_crate"),
        made_of=expand(
            f"{OF_ROUND}/{{stage}}.provenance.json",
            stage=["hub_open", "hub_accept", "hub_report"],
        ),
        accepted=f"{OF_ROUND}/accepted.json",
    output:
        crate=f"{OF_ROUND}/crate.zip",
        record=f"{OF_ROUND}/hub_crate.provenance.json",
    log:
        "<logs>/hub_crate.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        round=ROUND,
    shell:
        "jipflow hub crate --settings {params.file:q} --round {params.round}"
        " --accepted {input.accepted:q} --made-of {input.made_of:q}"
        " --out {output.crate:q} --record {output.record:q} > {log:q} 2>&1"


rule hub_close:
    """Open the next round if every site has answered: the last job, for the round changes."""
    input:
        again=stale("hub_close"),
        made_of=expand(
            f"{OF_ROUND}/{{stage}}.provenance.json",
            stage=["hub_accept", "hub_merge", "hub_report"],
        ),
        accepted=f"{OF_ROUND}/accepted.json",
        crate=f"{OF_ROUND}/crate.zip",
    output:
        outlook=f"{OF_ROUND}/outlook.json",
        record=f"{OF_ROUND}/hub_close.provenance.json",
    log:
        "<logs>/hub_close.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        round=ROUND,
    shell:
        "jipflow hub close --settings {params.file:q} --round {params.round} --accepted {input.accepted:q}"
        " --made-of {input.made_of:q}"
        " --out {output.outlook:q} --record {output.record:q} > {log:q} 2>&1"
