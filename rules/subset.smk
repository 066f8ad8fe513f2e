# What is of the whole cohort; a run of some cases alone states that it makes none of it.
for target in ("release", "bundle", "send", "train"):

    rule:
        name:
            target
        input:
            whole_only,
