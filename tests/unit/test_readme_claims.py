"""Each sentence of README is held by a test, or it is written down why none can hold it.

A sentence that changes has to be looked at anew: it is not found here any more.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from jipflow.report.site.run import STAGES
from jipflow.settings.resources import PROTOCOLS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

COMMANDS = "unit/test_docs_commands.py::test_a_page_can_be_followed_to_the_letter"
HERE = "unit/test_readme_claims.py"

CLAIMS: dict[str, list[str]] = {
    "A hospital points jipflow at its DICOM, a folder or its PACS. jipflow catalogues the images, "
    "selects a cohort by a filter that all partners share, checks each series, segments it, writes "
    "DICOM-SEG and DICOM-SR, extracts radiomics, and builds a release of disclosure-controlled "
    "aggregates.": [
        "pipeline/test_tiny.py::test_every_planted_defect_has_its_reason_and_nothing_else_failed",
        "pipeline/test_tiny.py::test_segmentations_are_the_truth",
        "pipeline/test_tiny.py::test_features_are_there_and_volumes_are_true",
        "peers/test_sr_validators.py",
        "peers/test_pacs_stages.py",
        "pipeline/test_demo.py::test_merged_is_pooled",
    ],
    "Over sites, means, tests, regressions, Cox models, survival curves and ComBat equal what the "
    "same patients in one table give, to 1e-9 beside statsmodels, scipy and lifelines; p values "
    "far out in the tail of two kinds to 2e-7 "
    "([docs/benchmarks.md](docs/benchmarks.md#exactness)).": [
        "unit/test_exactness.py",
        "unit/test_linear.py::test_a_model_over_sites_equals_the_pooled_one",
        "unit/test_cox_rounds.py::test_models_through_gates_and_ledgers_equal_one_place",
        "unit/test_kaplan_meier.py",
        "unit/test_combat.py",
    ],
    "A person approves the release; a hub verifies the sites' sealed messages and merges them, in "
    "as many rounds as it takes.": [
        "unit/test_packing.py::test_nothing_leaves_unapproved",
        "unit/test_federation.py::test_three_sites_go_through_two_rounds",
        "pipeline/test_demo.py::test_the_hub_refuses_a_bundle_that_was_changed",
    ],
    "What no site withheld equals what pooling the measured patients would have given.": [
        "pipeline/test_demo.py::test_merged_is_pooled",
        "unit/test_release_pages.py::test_a_hub_says_where_its_numbers_are_not_of_all",
    ],
    "Images, identifiers and patient-level rows never leave the site.": [
        "unit/test_packing.py::test_no_pseudonym_leaves",
        "pipeline/test_sarcoma.py::test_nothing_of_a_patient_is_in_what_leaves",
    ],
    "It runs where the images are: on a laptop, a GPU node or a SLURM cluster, with `pip`, a "
    "Snakefile and the scheduler that is already there.": [
        "pipeline/test_slurm.py::test_jobs_went_through_slurm",
        f"{HERE}::test_the_profiles_that_are_named_are_there",
    ],
    "It needs no server and, once installed, no network.": [
        "pipeline/test_docs_snippets.py::"
        "test_the_example_of_the_guide_runs_without_a_network_and_releases",
    ],
    "On a Linux machine with Python 3.11, 3.12 or 3.13 with its headers and venv (Debian: "
    "python3-dev, python3-venv), git, make and a C compiler:": [
        f"{HERE}::test_the_versions_of_python_are_those_of_the_package",
    ],
    "`make demo` ends with the paths of the reports.": [
        "pipeline/test_demo.py::test_it_ends_with_the_summary_and_a_report_that_is_there",
    ],
    "`make test TESTS=tests/unit/test_hub.py` runs a part; `make test-all` runs the long tests, "
    "which `make test` leaves out.": [COMMANDS],
    "A test that needs what the machine lacks says so and is skipped.": [
        "unit/test_needs.py::test_what_is_missing_skips_here_and_fails_in_ci",
        "unit/test_needs.py::test_no_other_test_skips_by_itself",
    ],
    "`jipflow site init` asks what it cannot find out, writes a site's settings, keys and profile, "
    "and says why ([docs/admin-guide.md](docs/admin-guide.md)).": [
        "unit/test_site_init.py::test_settings_keys_and_profile_are_written_with_the_grounds",
        "unit/test_site_init.py::test_a_person_is_asked_again_until_the_answer_is_one",
    ],
    "`my-site.yaml` says where your images are; copy [config/config.yaml](config/config.yaml) and "
    "change it.": [COMMANDS],
    "A protocol says what is computed and is the same at every site; you "
    "[write one](docs/protocol-guide.md) for your images.": [
        "unit/test_hub.py",
        "pipeline/test_docs_snippets.py::"
        "test_the_example_of_the_guide_runs_without_a_network_and_releases",
    ],
    "`sarcoma-pet` wants PET with contours called `GTV_Mass_PET`, as the public collection "
    "Soft-tissue-Sarcoma has them.": [
        f"{HERE}::test_the_example_wants_the_contours_that_are_named"
    ],
    "For a cluster use `--profile profiles/slurm`; for one GPU `--profile profiles/gpu`, and "
    "`processing: {device: cuda}` in `my-site.yaml`.": [
        f"{HERE}::test_the_profiles_that_are_named_are_there",
        "pipeline/test_slurm.py::"
        "test_a_gpu_is_asked_for_by_segment_which_shares_its_job_with_no_stage",
    ],
    "When it is done, read `report/index.html`, then what would leave: in short, and each number "
    "in `release/r01/disclosure.html`.": [
        "pipeline/test_docs_snippets.py::test_the_pages_of_a_release_follow_the_run",
        "unit/test_review.py::test_a_first_release_in_short",
    ],
    "If you agree, make a key, once, and approve and pack the release:": [COMMANDS],
    "Before that the hub needs your site's public key and the approver's, which `jipflow keys "
    "show` prints, and `my-site.yaml` needs the hub's id and key below `hub`.": [
        "unit/test_thread.py::test_what_another_hub_says_does_not_count",
        "unit/test_ending.py::test_a_site_whose_hub_has_no_key_or_has_ended_knows",
    ],
    "The last command needs the hub's message that opens the round in "
    "`/data/results/exchange/in`; the sealed message in `/data/results/exchange/out` is all that "
    "leaves.": [
        "pipeline/test_sarcoma.py::test_nothing_of_a_patient_is_in_what_leaves",
    ],
    "The hub runs `snakemake hub --profile profiles/local --configfile hub.yaml`.": [COMMANDS],
    "A case that fails is recorded with its stage, a reason code and a message, and the report "
    "counts it.": [
        "pipeline/test_tiny.py::test_every_planted_defect_has_its_reason_and_nothing_else_failed",
        "unit/test_report.py::test_report_says_what_happened",
    ],
    "It neither stops the others nor vanishes.": [
        "pipeline/test_tiny.py::test_no_case_vanishes",
    ],
    "Values are never replaced: a feature that has none is null, with its reason beside it.": [
        "unit/test_measure.py::test_every_segment_has_a_row_and_every_null_a_reason",
        "pipeline/test_tiny.py::test_features_are_there_and_volumes_are_true",
    ],
    "Features agree with the reference values of the Image Biomarker Standardisation Initiative "
    "within its tolerance: 1,389 of 1,389 values, of the digital phantom and of configurations A "
    "to E on the CT phantom ([docs/ibsi.md](docs/ibsi.md)).": [
        "unit/test_radiomics_ibsi.py::test_every_value_is_within_ibsis_tolerance",
        f"{HERE}::test_the_values_beside_ibsis_are_as_many_as_are_named",
    ],
    "Not computed are textures averaged over slices (2D), 136 further values of a phantom, and the "
    "dependence count percentage, which is 1 by definition.": [
        "unit/test_radiomics_ibsi.py::test_what_is_missing_is_known",
    ],
    "The same input gives the same tables, DICOM objects, pictures and releases, to the last byte; "
    "of the outcomes only times and memory differ.": [
        "pipeline/test_resume.py::test_the_same_tables_to_the_last_bit",
        "pipeline/test_resume.py::test_the_same_files_to_the_last_byte",
    ],
    "A killed run is taken up where it stopped.": [
        "pipeline/test_resume.py::test_the_same_files_to_the_last_byte",
    ],
    "Nothing is released on fewer patients than the protocol's minimum, and what is withheld is "
    "listed with the rule that withheld it.": [
        "unit/test_gate.py::test_too_few_patients_are_withheld",
        "unit/test_release_pages.py::test_withheld_bins_are_listed_with_their_rule_and_its_meaning",
        "unit/test_report.py::test_disclosure_page_shows_every_value",
    ],
    "Model weights are checked against a pinned hash before anything opens them.": [
        "unit/test_models.py::test_a_changed_missing_or_extra_file_is_refused",
        "unit/test_nnunet.py::test_a_pinned_checkpoint_that_would_run_code_is_refused_and_does_not_run",
    ],
    "A stage is a rule in [rules](rules) and a module in [workflow/jipflow](workflow/jipflow).": [
        f"{HERE}::test_each_stage_is_a_rule_and_a_module",
    ],
    "jipflow is a research tool and no medical device.": [
        "unit/test_report.py::test_every_page_is_for_research_only",
    ],
    "The demo model knows synthetic patients only.": [
        f"{HERE}::test_the_demo_model_says_what_it_was_trained_on",
    ],
    "The licence is Apache-2.0.": [f"{HERE}::test_the_licence_is_the_one_that_is_named"],
}
"""What holds each sentence: a test, or a file of tests."""

UNTESTED = {
    "Or do it by hand:": "begins what follows",
    "Federated medical imaging as a Snakemake workflow.": "says what it is",
    "Each sets up `.venv` on its first run (three to six minutes; 7 GB with PyPI's build of "
    "PyTorch, which brings CUDA, 3.2 GB with the one for the CPU) and prints what it does.": (
        "measured by hand; a test would download it all"
    ),
    "Those in [config/protocols](config/protocols) are examples that fit theirs only:": (
        "says of each protocol what it says itself"
    ),
    "To cite it, see [CITATION.cff](CITATION.cff).": "a link, which test_docs_links.py follows",
}


def sentences() -> list[str]:
    """The sentences of README outside blocks, tables, headings and pictures."""
    text = re.sub(r"^ *```.*?^ *```", "\n", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "!"))]
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", "\n".join(lines)):
        words = " ".join(paragraph.split()).removeprefix("- ")
        found += re.split(r"(?<=[.:!?])\s+(?=[A-Z`\[])", words) if words else []
    return found


def test_every_sentence_is_held_or_is_written_down() -> None:
    assert [s for s in sentences() if s not in CLAIMS and s not in UNTESTED] == []
    assert sorted({*CLAIMS, *UNTESTED} - set(sentences())) == []


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_holds_a_claim_is_there(claim: str) -> None:
    for name in CLAIMS[claim]:
        file, _, test = name.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *def {test or 'test_'}", text, re.MULTILINE), name


def test_the_profiles_that_are_named_are_there() -> None:
    for name in set(re.findall(r"profiles/(\w+)", README)):
        assert (ROOT / "profiles" / name / "config.yaml").is_file()
    slurm = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    assert slurm["executor"] == "slurm"


def test_the_versions_of_python_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"


def test_the_example_wants_the_contours_that_are_named() -> None:
    protocol = yaml.safe_load((PROTOCOLS / "sarcoma-pet.yaml").read_text())
    (segmentation,) = protocol["segmentations"]
    assert [segment["match"] for segment in segmentation["segments"]] == ["GTV_Mass_PET"]
    assert "Soft-tissue-Sarcoma" in (PROTOCOLS / "sarcoma-pet.yaml").read_text()


def test_the_values_beside_ibsis_are_as_many_as_are_named() -> None:
    page = (ROOT / "docs" / "ibsi.md").read_text(encoding="utf-8")
    table = page.split("## IBSI-1: every value beside its consensus")[1].split("\n## ")[0]
    rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
    assert rows.count("✓") == 1389
    assert "✗" not in rows


def test_each_stage_is_a_rule_and_a_module() -> None:
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    commands = (ROOT / "workflow" / "jipflow" / "cli" / "stages.py").read_text()
    for stage in STAGES:
        assert re.search(rf"^(rule|checkpoint) {stage}:", rules, re.MULTILINE), stage
        assert f'@AUDIENCE.command("{stage}")' in commands


def test_the_demo_model_says_what_it_was_trained_on() -> None:
    model = yaml.safe_load((ROOT / "config" / "models.yaml").read_text())["models"]["phantom-ct"]
    assert "no patient data" in model["training_data"]
    assert "not for patients" in model["intended_use"]


def test_the_licence_is_the_one_that_is_named() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
