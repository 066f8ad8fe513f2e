# Messages over S3 or WebDAV, between the place and the folders that other rules know; without an
# address in the settings there is none of this.

CARRIED = str(Path(ALL_RESULTS, "exchange"))

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
