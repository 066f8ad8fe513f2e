rule publish:
    """Send the DICOM-SEG and DICOM-SR of a shard to the PACS.

    What it has acknowledged stands in published/<shard>.jsonl and is not sent again.
    """
    input:
        again=stale("publish", files=["published/{shard}.jsonl"]),
        encoded="<shard>/encode/outcomes.parquet",
        documented="<shard>/document/outcomes.parquet",
    output:
        outcomes="<shard>/publish/outcomes.parquet",
        record="<shard>/publish/provenance.json",
    log:
        "<logs>/publish/{shard}.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    resources:
        pacs=1,
    params:
        file=settings_file,
        results=lambda wildcards: RESULTS,
        receipts=lambda wildcards: f"{RESULTS}/published/{wildcards.shard}.jsonl",
    shell:
        "jipflow publish --settings {params.file:q}"
        " --made {input.encoded:q} {input.documented:q} --results {params.results:q}"
        " --receipts {params.receipts:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q} > {log:q} 2>&1"
