# The demo model: `snakemake train` writes workflow/resources/models/phantom-ct anew.
TRAIN = "results/train/phantom-ct"
MODEL = "workflow/resources/models/phantom-ct"
FOLD = "trained/Dataset001_PhantomCT/PhantomTrainer__nnUNetPlans__3d_fullres/fold_0"


rule train:
    input:
        "config/models.yaml",


rule train_data:
    output:
        TRAIN + "/raw/Dataset001_PhantomCT/dataset.json",
    shell:
        "jipflow train data --work {TRAIN}"


rule train_plan:
    input:
        rules.train_data.output,
    output:
        TRAIN + "/preprocessed/Dataset001_PhantomCT/splits_final.json",
    log:
        TRAIN + "/plan.log",
    shell:
        "jipflow train plan --work {TRAIN} > {log} 2>&1"


rule train_fit:
    input:
        rules.train_plan.output,
    output:
        TRAIN + "/" + FOLD + "/checkpoint_final.pth",
    log:
        TRAIN + "/fit.log",
    shell:
        "jipflow train fit --work {TRAIN} > {log} 2>&1"


rule train_export:
    input:
        rules.train_fit.output,
    output:
        MODEL + "/dataset.json",
        MODEL + "/plans.json",
        MODEL + "/fold_0/checkpoint_final.pth",
        MODEL + "/training_log.txt",
        MODEL + "/provenance.json",
    shell:
        "jipflow train export --work {TRAIN} --model {MODEL}"


rule train_evaluate:
    input:
        rules.train_export.output,
    output:
        MODEL + "/evaluation.json",
    log:
        TRAIN + "/evaluate.log",
    shell:
        "jipflow train evaluate --model {MODEL} > {log} 2>&1"


rule train_register:
    input:
        rules.train_export.output,
        rules.train_evaluate.output,
    output:
        update("config/models.yaml"),
    shell:
        "jipflow train register --model {MODEL} --registry {output}"
