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
        can_train,
        "<train>/index.html",
        "<train>/register.provenance.json",
        "<results>/crate/train.zip",
        REGISTRY,


rule train_data:
    """Write the images and label maps of a shard as nnU-Net's training set."""
    input:
        again=stale("train_data", f"{RESULTS}/shards/{{shard}}/train/provenance.json"),
        cases=shard_cases,
        prepared="<shard>/prepare/outcomes.parquet",
        segmented=SEGMENTED,
        volumes="<work>/{shard}/volumes",
        masks="<work>/{shard}/masks",
    output:
        images=directory("<trainwork>/raw/Dataset001_Cohort/{shard}"),
        outcomes="<shard>/train/outcomes.parquet",
        record="<shard>/train/provenance.json",
    log:
        "<logs>/train_data/{shard}.log",
    conda:
        "../envs/jipflow.yaml"
    threads: shard_threads
    resources:
        mem_mb=shard_memory(6000),
        runtime=shard_minutes(60),
    params:
        file=settings_file,
    shell:
        "jipflow train data --settings {params.file:q} --cases {input.cases:q}"
        " --prepared {input.prepared:q} --segmented {input.segmented:q} --volumes {input.volumes:q}"
        " --masks {input.masks:q} --out {output.images:q} --outcomes {output.outcomes:q}"
        " --record {output.record:q} --threads {threads} > {log:q} 2>&1"


rule train_plan:
    """Split the cases, plan the network and preprocess the images."""
    input:
        again=stale(
            "train_plan",
            f"{RESULTS}/train/plan.provenance.json",
            inputs=shard_records("train"),
        ),
        cases="<results>/cohort/cases.tsv",
        outcomes=shards("<results>/shards/{shard}/train/outcomes.parquet"),
    output:
        split="<trainwork>/split.json",
        plans="<trainwork>/model/plans.json",
        record="<train>/plan.provenance.json",
    log:
        "<logs>/train_plan.log",
    conda:
        "../envs/nnunet.yaml"
    threads: 4
    resources:
        mem_mb=each_try(16000),
        runtime=480,
    params:
        file=settings_file,
        work=subpath(output.split, parent=True),
    shell:
        "jipflow train plan --settings {params.file:q} --work {params.work:q}"
        " --cases {input.cases:q} --outcomes {input.outcomes:q}"
        " --record {output.record:q} --threads {threads} > {log:q} 2>&1"


rule train_fit:
    """Train the model of a fold.

    A job that was cut off goes on from checkpoint_latest.pth, which is no output and so is kept.
    """
    input:
        again=stale("train_fit", f"{RESULTS}/train/fit_{{fold}}.provenance.json"),
        made_of=training_records("plan"),
        split="<trainwork>/split.json",
    output:
        "<trainwork>/model/fold_{fold}/checkpoint_final.pth",
        "<trainwork>/progress_{fold}.json",
        record="<train>/fit_{fold}.provenance.json",
    log:
        "<logs>/train_fit/{fold}.log",
    conda:
        "../envs/nnunet.yaml"
    threads: 8
    resources:
        mem_mb=each_try(24000),
        runtime=4320,
        gpu=int(SITE_SETTINGS.site.processing.device == "cuda"),
    params:
        file=settings_file,
        work=subpath(input.split, parent=True),
    shell:
        "jipflow train fit --settings {params.file:q} --work {params.work:q}"
        " --fold {wildcards.fold} --made-of {input.made_of:q} --record {output.record:q} --threads {threads} > {log:q} 2>&1"


rule train_evaluate:
    """Compare predictions with the segmentations, on cases that the model has not seen."""
    input:
        again=stale(
            "train_evaluate", f"{RESULTS}/train/evaluate_{{part}}.provenance.json"
        ),
        made_of=lambda wildcards: training_records("plan", *fits(wildcards.part)),
        split="<trainwork>/split.json",
        checkpoints=lambda wildcards: expand(
            "<trainwork>/model/{fit}/checkpoint_final.pth",
            fit=[fit.replace("fit", "fold") for fit in fits(wildcards.part)],
        ),
    output:
        table="<train>/evaluation/{part}.parquet",
        record="<train>/evaluate_{part}.provenance.json",
    log:
        "<logs>/train_evaluate/{part}.log",
    conda:
        "../envs/nnunet.yaml"
    threads: 4
    resources:
        mem_mb=each_try(12000),
        runtime=480,
        gpu=int(SITE_SETTINGS.site.processing.device == "cuda"),
    params:
        file=settings_file,
        work=subpath(input.split, parent=True),
    shell:
        "jipflow train evaluate --settings {params.file:q} --work {params.work:q}"
        " --part {wildcards.part} --out {output.table:q} --made-of {input.made_of:q}"
        " --record {output.record:q} --threads {threads} > {log:q} 2>&1"


rule train_report:
    """Join the evaluations, and write the page about the training."""
    input:
        again=stale("train_report", f"{RESULTS}/train/report.provenance.json"),
        made_of=training_records(
            "plan",
            *[f"fit_{fold}" for fold in FOLDS],
            *[f"evaluate_{part}" for part in PARTS],
        ),
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
        record="<train>/report.provenance.json",
    log:
        "<logs>/train_report.log",
    conda:
        "../envs/nnunet.yaml"
    resources:
        mem_mb=each_try(4000),
        runtime=30,
    params:
        file=settings_file,
        work=subpath(input.split, parent=True),
        folder=subpath(output.page, parent=True),
    shell:
        "jipflow train report --settings {params.file:q} --work {params.work:q}"
        " --outcomes {input.outcomes:q} --evaluations {input.evaluations:q} --out {params.folder:q}"
        " --made-of {input.made_of:q} --record {output.record:q}"
        " > {log:q} 2>&1"


rule train_register:
    """Copy the model to where models lie, and pin its files."""
    input:
        again=stale("train_register", f"{RESULTS}/train/register.provenance.json"),
        made_of=training_records("report"),
        split="<trainwork>/split.json",
        summary="<train>/summary.json",
        checkpoints=expand(
            "<trainwork>/model/fold_{fold}/checkpoint_final.pth", fold=FOLDS
        ),
    output:
        registry=update(REGISTRY),
        record="<train>/register.provenance.json",
    log:
        "<logs>/train_register.log",
    conda:
        "../envs/nnunet.yaml"
    params:
        file=settings_file,
        work=subpath(input.split, parent=True),
        model=str(Path(REGISTRY).with_name(TRAINING.model)),
    shell:
        "jipflow train register --settings {params.file:q} --work {params.work:q}"
        " --summary {input.summary:q} --model {params.model:q} --registry {output.registry:q}"
        " --made-of {input.made_of:q} --record {output.record:q} > {log:q} 2>&1"


rule train_crate:
    """Describe the training as a Research Object Crate, without any patient."""
    input:
        again=stale("train_crate", f"{RESULTS}/crate/train.provenance.json"),
        made_of=training_records("register"),
    output:
        crate="<results>/crate/train.zip",
        record="<results>/crate/train.provenance.json",
    log:
        "<logs>/train_crate.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        file=settings_file,
        results=lambda wildcards: str(ALL_RESULTS),
        registry=REGISTRY,
    shell:
        "jipflow train crate --settings {params.file:q} --made-of {input.made_of:q}"
        " --results {params.results:q} --registry {params.registry:q} --out {output.crate:q}"
        " --record {output.record:q} > {log:q} 2>&1"
