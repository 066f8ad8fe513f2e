from pathlib import Path

from jipflow import __version__
from jipflow.settings.resources import ConfigError
from jipflow.hub.settings import load_hub_settings
from jipflow.files import canonical_digest, write_json

try:
    HUB_SETTINGS = load_hub_settings(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

RESULTS = HUB_SETTINGS.results
SETTINGS = f"{RESULTS}/settings.json"
HUB_HASH = canonical_digest(HUB_SETTINGS.plain())
INBOX = Path(HUB_SETTINGS.hub.inbox)
ROUND = "<results>/r01"
TARGETS = [f"{ROUND}/report.html"]


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


onstart:
    write_json(Path(SETTINGS), HUB_SETTINGS.plain())


rule hub:
    input:
        TARGETS,


rule hub_accept:
    input:
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
        settings=HUB_HASH,
    shell:
        'jipflow hub accept --settings "$JIPFLOW_SETTINGS"'
        " --accepted {output.accepted:q}"
        " --rejected {output.rejected:q} > {log:q} 2>&1"


rule hub_merge:
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
        settings=HUB_HASH,
    shell:
        'jipflow hub merge --settings "$JIPFLOW_SETTINGS"'
        " --accepted {input.accepted:q}"
        " --out {output.result:q} > {log:q} 2>&1"


rule hub_report:
    input:
        result=f"{ROUND}/result.json",
        accepted=f"{ROUND}/accepted.json",
        rejected=f"{ROUND}/rejected.json",
    output:
        report=f"{ROUND}/report.html",
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
