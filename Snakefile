# From the DICOM of a site to its release, or, with a hub's configuration, from releases to results.
#
#   snakemake --profile profiles/local --configfile my-site.yaml --config protocol=sarcoma-pet
#   snakemake --profile profiles/local --configfile hub.yaml hub
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")

if not config.keys() & {"site", "hub", "sources", "roster"}:

    configfile: "config/site.yaml"


if "roster" in config:

    include: "rules/hub.smk"

else:

    include: "rules/common.smk"
    include: "rules/catalog.smk"
    include: "rules/query.smk"
    include: "rules/cohort.smk"
    include: "rules/retrieve.smk"
    include: "rules/prepare.smk"
    include: "rules/segment.smk"
    include: "rules/encode.smk"
    include: "rules/measure.smk"
    include: "rules/document.smk"
    include: "rules/publish.smk"
    include: "rules/collect.smk"
    include: "rules/report.smk"
    include: "rules/release.smk"

    if ANNOTATED:

        include: "rules/annotate.smk"

    if SITE_SETTINGS.protocol.training:

        include: "rules/train.smk"

    else:

        rule train:
            input:
                no_training,


# Jobs find jipflow beside the snakemake that runs them, unless their own environment has one. The
# settings' path is no part of a rule: another protocol must not make the shared catalog run again.
shell.prefix(
    f'set -euo pipefail; export PATH="$PATH":{quote(str(Path(sys.executable).parent))}'
    f" JIPFLOW_SETTINGS={quote(str(SETTINGS))}; "
)


rule all:
    default_target: True
    input:
        TARGETS,
