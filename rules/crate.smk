rule crate:
    """Describe the run as a Research Object Crate, without any patient."""
    input:
        again=stale("crate", f"{JOINED}/crate/provenance.json"),
        made_of=["<joined>/features/provenance.json", "<joined>/report/provenance.json"],
    output:
        crate="<joined>/crate/run.zip",
        record="<joined>/crate/provenance.json",
    log:
        "<logs>/crate.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        results=lambda wildcards: str(ALL_RESULTS),
    shell:
        "jipflow crate --settings {params.file:q} --made-of {input.made_of:q}"
        " --results {params.results:q} --out {output.crate:q} --record {output.record:q}"
        " > {log:q} 2>&1"
