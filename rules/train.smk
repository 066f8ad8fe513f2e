pathvars:
    train=f"{RESULTS}/train",
    trainwork=f"{RESULTS}/work/train",


TRAINING = SITE_SETTINGS.protocol.training
REGISTRY = str(SITE_SETTINGS.site.registry)
FOLDS = TRAINING.fold_names()
# What is evaluated: the cases of each fold, and those that no model has seen.
PARTS = [
    *(FOLDS if FOLDS != ["all"] else []),
    *(["held_out"] if TRAINING.held_out else []),
]


wildcard_constraints:
    fold=r"\d+|all",
    part=r"\d+|held_out",


rule train:
    """Train a model on the segmentations of the cohort, and register it; see docs/training.md."""
    input:
        "<train>/index.html",
        REGISTRY,


rule train_data:
    """Write the images and label maps of a shard as nnU-Net's training set."""
    input:
        cases=shard_cases,
        prepared="<shard>/prepare/outcomes.parquet",
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        images=directory("<trainwork>/raw/Dataset001_Cohort/{shard}"),
        outcomes="<shard>/train/outcomes.parquet",
    log:
        "<logs>/train_data/{shard}.log",
    benchmark:
        "<benchmarks>/train_data/{shard}.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=settings_hash("segmentations"),
        training=training_hash("segmentation", "inputs"),
    shell:
        "jipflow train data --settings {params.file:q} --cases {input.cases:q}"
        " --prepared {input.prepared:q} --segmented {input.segmented:q} --volumes {input.volumes:q}"
        " --masks {input.masks:q} --out {output.images:q} --outcomes {output.outcomes:q}"
        " --threads {threads} > {log:q} 2>&1"


rule train_plan:
    """Split the cases, plan the network and preprocess the images."""
    input:
        cases="<results>/cohort/cases.tsv",
        outcomes=shards("<results>/shards/{shard}/train/outcomes.parquet"),
    output:
        "<trainwork>/split.json",
        "<trainwork>/model/plans.json",
    log:
        "<logs>/train_plan.log",
    benchmark:
        "<benchmarks>/train_plan.tsv"
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=settings_hash("segmentations"),
        training=training_hash(
            *["segmentation", "inputs", "configuration", "folds", "held_out", "seed"],
            *["spacing", "patch", "features", "batch", "batch_dice"],
        ),
        work=subpath(output[0], parent=True),
    shell:
        "jipflow train plan --settings {params.file:q} --work {params.work:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q} --threads {threads} > {log:q} 2>&1"


rule train_fit:
    """Train the model of a fold.

    A job that was cut off goes on from checkpoint_latest.pth, which is no output and so is kept.
    """
    input:
        "<trainwork>/split.json",
    output:
        "<trainwork>/model/fold_{fold}/checkpoint_final.pth",
        "<trainwork>/progress_{fold}.json",
    log:
        "<logs>/train_fit/{fold}.log",
    benchmark:
        "<benchmarks>/train_fit/{fold}.tsv"
    conda:
        "../envs/jipflow.yaml"
    resources:
        gpu=int(SITE_SETTINGS.site.processing.device == "cuda"),
    params:
        version=__version__,
        file=settings_file,
        training=training_hash(*TRAINING.plain().keys() - DESCRIBING),
        work=subpath(input[0], parent=True),
    shell:
        "jipflow train fit --settings {params.file:q} --work {params.work:q}"
        " --fold {wildcards.fold} --threads {threads} > {log:q} 2>&1"


rule train_evaluate:
    """Compare predictions with the segmentations, on cases that the model has not seen."""
    input:
        "<trainwork>/split.json",
        lambda wildcards: expand(
            "<trainwork>/model/fold_{fold}/checkpoint_final.pth",
            fold=FOLDS if wildcards.part == "held_out" else wildcards.part,
        ),
    output:
        "<train>/evaluation/{part}.parquet",
    log:
        "<logs>/train_evaluate/{part}.log",
    benchmark:
        "<benchmarks>/train_evaluate/{part}.tsv"
    conda:
        "../envs/jipflow.yaml"
    resources:
        gpu=int(SITE_SETTINGS.site.processing.device == "cuda"),
    params:
        version=__version__,
        file=settings_file,
        settings=settings_hash("segmentations"),
        training=training_hash("segmentation", "folds"),
        work=subpath(input[0], parent=True),
    shell:
        "jipflow train evaluate --settings {params.file:q} --work {params.work:q}"
        " --part {wildcards.part} --out {output:q} --threads {threads} > {log:q} 2>&1"


rule train_report:
    """Join the evaluations, and write the page about the training."""
    input:
        split="<trainwork>/split.json",
        outcomes=shards("<results>/shards/{shard}/train/outcomes.parquet"),
        progress=expand("<trainwork>/progress_{fold}.json", fold=FOLDS),
        evaluations=expand("<train>/evaluation/{part}.parquet", part=PARTS),
    output:
        summary="<train>/summary.json",
        evaluation="<train>/evaluation.parquet",
        page=report(
            "<train>/index.html",
            caption="../workflow/report/training.rst",
            category="Training",
            labels={"site": SITE_ID, "model": TRAINING.model},
        ),
    log:
        "<logs>/train_report.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        settings=settings_hash("protocol", "training", "site.site"),
        work=subpath(input.split, parent=True),
        folder=subpath(output.page, parent=True),
    shell:
        "jipflow train report --settings {params.file:q} --work {params.work:q}"
        " --outcomes {input.outcomes:q} --evaluations {input.evaluations:q} --out {params.folder:q}"
        " > {log:q} 2>&1"


rule train_register:
    """Copy the model to where models lie, and pin its files."""
    input:
        split="<trainwork>/split.json",
        summary="<train>/summary.json",
        checkpoints=expand(
            "<trainwork>/model/fold_{fold}/checkpoint_final.pth", fold=FOLDS
        ),
    output:
        update(REGISTRY),
    log:
        "<logs>/train_register.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        version=__version__,
        file=settings_file,
        protocol=SITE_SETTINGS.protocol_sha256,
        work=subpath(input.split, parent=True),
        model=str(Path(REGISTRY).with_name(TRAINING.model)),
    shell:
        "jipflow train register --settings {params.file:q} --work {params.work:q}"
        " --summary {input.summary:q} --model {params.model:q} --registry {output:q} > {log:q} 2>&1"
