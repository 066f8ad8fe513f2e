rule settings:
    """Keep the effective settings beside the results, with every default filled in."""
    input:
        again=stale_settings,
    output:
        file="<results>/settings.json",
    log:
        "<logs>/settings.log",
    localrule: True
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
    shell:
        "cp {params.file:q} {output.file:q} 2> {log:q}"
