# For `snakemake` in this folder; the workflow is workflow/Snakefile.
include: "workflow/Snakefile"


# What a file includes cannot be its default.
rule default:
    """Make what the workflow makes; the same as all."""
    default_target: True
    input:
        rules.all.input,
