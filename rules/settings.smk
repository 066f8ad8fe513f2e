rule settings:
    """Keep the effective settings beside the results, with every default filled in."""
    output:
        "<results>/settings.json",
    log:
        "<logs>/settings.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        sha256=SETTINGS.stem,
    shell:
        "cp {params.file:q} {output:q} 2> {log:q}"
