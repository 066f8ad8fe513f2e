# Messages over S3 or WebDAV, between the place and the folders that other rules know; without an
# address in the settings there is none of this.
import subprocess

from jipflow.exchange.transport import unsent

CARRIED = str(Path(ALL_RESULTS, "exchange"))


@looking
def unsent_messages(wildcards):
    """Input function that names no file, and has `send` run again where something was not sent."""
    if workflow.is_main_process:
        waiting = unsent(OUTWAY.folder, Path(CARRIED, "sent.list"), OUTWAY.address)
        if waiting or not Path(CARRIED, "sent.json").is_file():
            workflow.dag.forcefiles.add(f"{CARRIED}/sent.json")
    return []


@looking
def fetch_again(wildcards):
    """Input function that names no file, and has `fetch` run again where the place has something.

    Where it does not answer the job will say why.
    """
    path = f"{CARRIED}/fetched.json"
    if workflow.is_main_process and path not in workflow.dag.forcefiles:
        memory = f"{CARRIED}/fetched.list"
        words = ["--from", INWAY.address, "--to", INWAY.folder, "--memory", memory]
        looked = subprocess.run(
            ["jipflow", "exchange", "look", *words], capture_output=True, check=False
        )
        if looked.returncode or looked.stdout:
            workflow.dag.forcefiles.add(path)
    return []


if INWAY.address:

    checkpoint fetch:
        """Fetch the messages that are not here yet."""
        input:
            hold_results,
            again=fetch_again,
        output:
            report=f"{CARRIED}/fetched.json",
        log:
            "<logs>/fetch.log",
        localrule: True
        conda:
            "../envs/jipflow.yaml"
        params:
            address=INWAY.address,
            folder=INWAY.folder,
            # No output: it is what this machine remembers, which Snakemake would remove.
            memory=f"{CARRIED}/fetched.list",
        shell:
            "jipflow exchange fetch --from {params.address:q} --to {params.folder:q}"
            " --memory {params.memory:q} --report {output.report:q} > {log:q} 2>&1"


if OUTWAY.address:

    rule send:
        """Put the messages into the place that were not put there before."""
        input:
            hold_results,
            PACKED,
            again=unsent_messages,
        output:
            report=f"{CARRIED}/sent.json",
        log:
            "<logs>/send.log",
        localrule: True
        conda:
            "../envs/jipflow.yaml"
        params:
            address=OUTWAY.address,
            folder=OUTWAY.folder,
            memory=f"{CARRIED}/sent.list",
        shell:
            "jipflow exchange send --from {params.folder:q} --to {params.address:q}"
            " --memory {params.memory:q} --report {output.report:q} > {log:q} 2>&1"
