# The demo model: `make model` makes workflow/resources/models/phantom-ct anew.
pathvars:
    train="results/train/phantom-ct",
    model="workflow/resources/models/phantom-ct",
    fold="trained/Dataset001_PhantomCT/PhantomTrainer__nnUNetPlans__3d_fullres/fold_0",


rule train:
    input:
        "config/models.yaml",


rule train_data:
    output:
        "<train>/raw/Dataset001_PhantomCT/dataset.json",
    log:
        "<train>/data.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        work=subpath(output[0], ancestor=3),
    shell:
        "jipflow train data --work {params.work} > {log} 2>&1"


rule train_plan:
    input:
        rules.train_data.output,
    output:
        "<train>/preprocessed/Dataset001_PhantomCT/splits_final.json",
    log:
        "<train>/plan.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        work=subpath(output[0], ancestor=3),
    shell:
        "jipflow train plan --work {params.work} > {log} 2>&1"


# A run that was cut off goes on from checkpoint_latest.pth, which is no output and so is kept.
rule train_fit:
    input:
        rules.train_plan.output,
    output:
        "<train>/<fold>/checkpoint_final.pth",
    log:
        "<train>/fit.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        work=subpath(output[0], ancestor=5),
    shell:
        "jipflow train fit --work {params.work} > {log} 2>&1"


rule train_export:
    input:
        rules.train_fit.output,
    output:
        "<model>/dataset.json",
        "<model>/plans.json",
        "<model>/fold_0/checkpoint_final.pth",
        "<model>/training_log.txt",
        "<model>/provenance.json",
    log:
        "<train>/export.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        work=subpath(input[0], ancestor=5),
        model=subpath(output[0], parent=True),
    shell:
        "jipflow train export --work {params.work} --model {params.model} > {log} 2>&1"


rule train_evaluate:
    input:
        rules.train_export.output,
    output:
        "<model>/evaluation.json",
    log:
        "<train>/evaluate.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        model=subpath(output[0], parent=True),
    shell:
        "jipflow train evaluate --model {params.model} > {log} 2>&1"


rule train_register:
    input:
        rules.train_export.output,
        rules.train_evaluate.output,
    output:
        update("config/models.yaml"),
    log:
        "<train>/register.log",
    conda:
        "../envs/jipflow.yaml"
    params:
        model=subpath(input[0], parent=True),
    shell:
        "jipflow train register --model {params.model} --registry {output} > {log} 2>&1"
