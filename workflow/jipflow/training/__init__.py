"""Training an nnU-Net v2 on a protocol's own cohort.

Five steps, each a function that reads and writes files below one work folder, so that Snakemake
(``rules/train.smk``) can run, resume and skip them: `data.run`, `plan.plan`, `fit.fit`,
`evaluate.evaluate` and `export.export`.
"""
