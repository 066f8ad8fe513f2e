"""The command line: what every rule of the workflow calls, and what a person calls."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jipflow import __version__

if TYPE_CHECKING:
    from jipflow.cases import Outcome

Handler = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 after an error whose message says what to mend."""
    arguments = _parser().parse_args(argv)
    from jipflow.cases import silence_libraries

    silence_libraries()
    try:
        arguments.handler(arguments)
    except Exception as error:
        from jipflow.cases import StageError
        from jipflow.settings.config import ConfigError

        if not isinstance(error, StageError | ConfigError):
            raise
        print(f"jipflow: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jipflow",
        description="Federated medical imaging: from DICOM to disclosure-controlled radiomics.",
        epilog="The workflow calls these; to run a site: snakemake --profile profiles/local "
        "--configfile my-site.yaml --config protocol=<id>.",
    )
    parser.add_argument("--version", action="version", version=f"jipflow {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "run three synthetic sites and the hub")
    demo.add_argument("--out", type=Path, default=Path("results/demo"))
    demo.add_argument("--patients", type=int, default=12, help="patients a site (default: 12)")
    demo.add_argument("--cores", type=int, default=None, help="default: all")

    phantom = _command(commands, "phantom", _phantom, "write a synthetic site's DICOM and truth")
    phantom.add_argument("--out", type=Path, required=True)
    phantom.add_argument("--site", required=True)
    phantom.add_argument("--patients", type=int, default=8)
    phantom.add_argument("--seed", type=int, default=1)
    phantom.add_argument("--no-defects", action="store_true")
    phantom.add_argument("--no-pet", action="store_true")
    phantom.add_argument("--organs", action="store_true", help="contours of the organs on the CT")

    config = commands.add_parser("config", help="the effective settings").add_subparsers(
        metavar="ACTION", required=True
    )
    show = _command(config, "show", _config_show, "print the settings with every default")
    show.add_argument("--configfile", type=Path, required=True)
    show.add_argument("--protocol", required=True)

    catalog = _command(commands, "catalog", _catalog, "read the headers of all sources")
    _settings(catalog)
    catalog.add_argument("--out", type=Path, required=True)
    _threads(catalog)

    query = _command(commands, "query", _query, "ask the PACS for the series of the cohort")
    _settings(query)
    _paths(query, "store", "out")

    cohort = _command(commands, "cohort", _cohort, "select cases and deal them to shards")
    _settings(cohort)
    cohort.add_argument("--catalog", type=Path, nargs="+", required=True)
    _paths(cohort, "out")

    retrieve = _command(commands, "retrieve", _retrieve, "fetch series from the PACS")
    _settings(retrieve)
    _paths(retrieve, "cases", "outcomes")

    prepare = _command(commands, "prepare", _prepare, "turn series into volumes")
    _paths(prepare, "cases", "volumes", "outcomes")
    prepare.add_argument("--retrieved", type=Path, nargs="*", default=[])
    _threads(prepare)

    segment = _command(commands, "segment", _segment, "segment volumes")
    _settings(segment)
    _paths(segment, "cases", "prepared", "volumes", "masks", "quality", "outcomes")
    _threads(segment)

    annotate = _command(commands, "annotate", _annotate, "take over what readers sent back")
    _settings(annotate)
    _paths(annotate, "cases", "prepared", "segmented", "volumes", "automatic", "results", "masks")
    _paths(annotate, "readings", "agreement", "quality", "outcomes")
    _threads(annotate)

    encode = _command(commands, "encode", _encode, "write DICOM-SEG")
    _settings(encode)
    _paths(encode, "cases", "masks", "results", "outcomes")
    _segmented(encode)
    _threads(encode)

    measure = _command(commands, "measure", _measure, "extract radiomic features")
    _settings(measure)
    _paths(measure, "cases", "volumes", "masks")
    _segmented(measure)
    _paths(measure, "features", "failures", "perturbed", "outcomes")
    _threads(measure)

    document = _command(commands, "document", _document, "write DICOM-SR")
    _settings(document)
    _paths(document, "cases", "encoded", "measured", "features", "failures", "results", "outcomes")
    _threads(document)

    publish = _command(commands, "publish", _publish, "send DICOM-SEG and DICOM-SR to the PACS")
    _settings(publish)
    publish.add_argument("--made", type=Path, nargs="+", required=True)
    _paths(publish, "results", "receipts", "outcomes")

    overlay = _command(commands, "overlay", _overlay, "draw segmentations over images")
    _settings(overlay)
    _paths(overlay, "cases", "volumes", "masks", "out", "outcomes")
    _threads(overlay)

    collect = _command(commands, "collect", _collect, "join the shards' tables")
    _settings(collect)
    _paths(collect, "results")
    for name in ("outcomes", "quality", "features", "failures", "perturbed"):
        collect.add_argument(f"--{name}", type=Path, nargs="*", required=True)
    for name in ("readings", "agreement"):
        collect.add_argument(f"--{name}", type=Path, nargs="*", default=[])

    accept = _command(commands, "accept", _accept, "fail if too many cases failed or wait")
    _paths(accept, "verdict")

    report = _command(commands, "report", _report, "write the site's report")
    _settings(report)
    _paths(report, "results", "out")

    _add_algorithm(commands)
    _add_release(commands)
    _add_keys(commands)
    _add_hub(commands)
    _add_train(commands)
    _add_models(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    handler: Handler,
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(handler=handler)
    return parser


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", type=Path, required=True, help="effective settings, settings.json"
    )


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1)


def _segmented(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--segmented", type=Path, nargs="+", required=True, help="outcomes of segment and annotate"
    )


def _paths(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)


def _add_algorithm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    algorithm = commands.add_parser("algorithm", help="algorithms in containers").add_subparsers(
        metavar="ACTION", required=True
    )
    check = _command(
        algorithm, "check", _algorithm_check, "try whether an image meets the contract"
    )
    check.add_argument("image", type=Path, help="image archive (.tar), or .sif for apptainer")
    check.add_argument(
        "--label", action="append", required=True, help="name=number, for each of its labels"
    )
    check.add_argument(
        "--role",
        action="append",
        help="name or name=modality of an image that it takes, the segmented one first "
        "(default: CT)",
    )
    check.add_argument("--runtime", default="auto", help="as in containers of site.yaml")
    check.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    check.add_argument("--minutes", type=float, default=10, help="a case (default: 10)")
    _threads(check)


def _add_release(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    release = commands.add_parser("release", help="what may leave the site").add_subparsers(
        metavar="ACTION", required=True
    )
    build = _command(release, "build", _release_build, "write a candidate release")
    _settings(build)
    _paths(build, "features", "cases", "outcomes", "verdict", "out")
    approve = _command(release, "approve", _release_approve, "approve a release as a person")
    approve.add_argument("release", type=Path, help="folder of the release, such as release/r01")
    approve.add_argument("--name", required=True, help="your name, as the hub's roster has it")
    approve.add_argument("--key", type=Path, required=True, help="your private key")
    approve.add_argument("--attempt", type=int, default=1)
    bundle = _command(release, "bundle", _release_bundle, "sign and pack an approved release")
    _settings(bundle)
    _paths(bundle, "release", "out")


def _add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = commands.add_parser("keys", help="signing keys").add_subparsers(
        metavar="ACTION", required=True
    )
    for name, handler, text in (
        ("new", _keys_new, "make a private key and print its public key"),
        ("show", _keys_show, "print the public key of a private key"),
    ):
        _command(keys, name, handler, text).add_argument("key", type=Path)


def _add_hub(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    hub = commands.add_parser("hub", help="the coordinating hub").add_subparsers(
        metavar="ACTION", required=True
    )
    accept = _command(hub, "accept", _hub_accept, "verify the bundles of the inbox")
    _settings(accept)
    _paths(accept, "accepted", "rejected")
    merge = _command(hub, "merge", _hub_merge, "merge what was accepted")
    _settings(merge)
    _paths(merge, "accepted", "out")
    report = _command(hub, "report", _hub_report, "write the hub's report")
    _paths(report, "result", "accepted", "rejected", "out")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="train a model on the cohort").add_subparsers(
        metavar="STEP", required=True
    )
    data = _command(train, "data", _train_data, "write the images and label maps of a shard")
    _settings(data)
    _paths(data, "cases", "prepared", "volumes", "masks", "out", "outcomes")
    _segmented(data)
    _threads(data)
    plan = _command(train, "plan", _train_plan, "split, plan and preprocess")
    _settings(plan)
    _paths(plan, "work", "cases")
    plan.add_argument("--outcomes", type=Path, nargs="+", required=True)
    _threads(plan)
    fit = _command(train, "fit", _train_fit, "train the model of a fold, or go on training")
    _settings(fit)
    _paths(fit, "work")
    fit.add_argument("--fold", required=True, help="its number, or all")
    _threads(fit)
    evaluate = _command(train, "evaluate", _train_evaluate, "predict cases that were not seen")
    _settings(evaluate)
    _paths(evaluate, "work", "out")
    evaluate.add_argument("--part", required=True, help="number of a fold, or held_out")
    _threads(evaluate)
    report = _command(train, "report", _train_report, "join the evaluations and draw the curves")
    _settings(report)
    _paths(report, "work", "out")
    report.add_argument("--outcomes", type=Path, nargs="+", required=True)
    report.add_argument("--evaluations", type=Path, nargs="+", required=True)
    register = _command(train, "register", _train_register, "copy the model and pin its files")
    _settings(register)
    _paths(register, "work", "summary", "model", "registry")


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser("models", help="the models of config/models.yaml").add_subparsers(
        metavar="ACTION", required=True
    )
    fetch = _command(models, "fetch", _models_fetch, "fetch files that are missing or wrong")
    which = fetch.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="*", default=[], help="names of models")
    which.add_argument("--all", action="store_true", help="every model, or all of the bundle")
    fetch.add_argument("--from", dest="bundle", type=Path, help="a bundle, instead of the network")
    verify = _command(models, "verify", _models_verify, "compare files with their pinned hashes")
    verify.add_argument("name", nargs="*", help="names of models; default: all")
    bundle = _command(models, "bundle", _models_bundle, "pack models for a site without network")
    bundle.add_argument("out", type=Path, help="the zip archive that is written")
    bundle.add_argument("name", nargs="*", help="names of models; default: all")
    add = _command(models, "add", _models_add, "pin the files of a folder as a new model")
    add.add_argument("name", help="the model's name in protocols")
    add.add_argument("--folder", type=Path, required=True, help="its files")
    add.add_argument(
        "--about", type=Path, required=True, help="YAML file: licence, intended use, labels, ..."
    )
    add.add_argument("--replace", action="store_true", help="replace an entry of that name")


def _demo(arguments: argparse.Namespace) -> None:
    from jipflow.cli.demo import run_demo

    run_demo(out=arguments.out, patients=arguments.patients, cores=arguments.cores)


def _phantom(arguments: argparse.Namespace) -> None:
    from jipflow.phantom.cohort import write_site

    write_site(
        arguments.out,
        arguments.site,
        arguments.patients,
        arguments.seed,
        defects=not arguments.no_defects,
        pet=not arguments.no_pet,
        organs=arguments.organs,
    )


def _config_show(arguments: argparse.Namespace) -> None:
    import yaml

    from jipflow.settings.config import load_settings, read_yaml

    settings = load_settings({**read_yaml(arguments.configfile), "protocol": arguments.protocol})
    print(yaml.safe_dump(settings.as_dict(), sort_keys=False), end="")


def _catalog(arguments: argparse.Namespace) -> None:
    from jipflow.catalog.scan import run
    from jipflow.settings.config import read_settings

    sources = read_settings(arguments.settings).site["sources"]
    folders = [source for source in sources if source["kind"] == "folder"]
    print(json.dumps(run(sources=folders, out_dir=arguments.out, threads=arguments.threads)))


def _query(arguments: argparse.Namespace) -> None:
    from jipflow.pacs.query import run
    from jipflow.settings.config import read_settings

    run(
        settings=read_settings(arguments.settings),
        store=arguments.store.resolve(),
        out_dir=arguments.out,
    )


def _cohort(arguments: argparse.Namespace) -> None:
    from jipflow.catalog.cohort import run
    from jipflow.settings.config import read_settings

    run(
        settings=read_settings(arguments.settings),
        catalog_dirs=arguments.catalog,
        out_dir=arguments.out,
    )


def _retrieve(arguments: argparse.Namespace) -> None:
    from jipflow.pacs.retrieve import run
    from jipflow.settings.config import read_settings

    _finish(
        arguments.outcomes,
        run(shard_file=arguments.cases, settings=read_settings(arguments.settings)),
    )


def _prepare(arguments: argparse.Namespace) -> None:
    from jipflow.cases import Status, read_cases
    from jipflow.images.prepare import run

    retrieved = _all_outcomes(arguments.retrieved)
    lost = {(o.case_id, o.item) for o in retrieved if o.status is Status.FAILED}
    outcomes = run(
        cases=read_cases(arguments.cases),
        lost=lost,
        volumes=arguments.volumes,
        threads=arguments.threads,
    )
    _finish(arguments.outcomes, outcomes)


def _segment(arguments: argparse.Namespace) -> None:
    from jipflow.cases import passed, read_cases, read_outcomes
    from jipflow.files import write_parquet
    from jipflow.segment.quality import quality_table
    from jipflow.segment.stage import run
    from jipflow.settings.config import read_settings

    segmented = run(
        cases=read_cases(arguments.cases),
        prepared=passed(read_outcomes(arguments.prepared)),
        settings=read_settings(arguments.settings),
        volumes=arguments.volumes,
        masks=arguments.masks,
        threads=arguments.threads,
    )
    write_parquet(arguments.quality, quality_table(segmented.quality))
    _finish(arguments.outcomes, segmented.outcomes)


def _annotate(arguments: argparse.Namespace) -> None:
    from jipflow.annotate.stage import run
    from jipflow.annotate.worklist import write_worklist
    from jipflow.cases import passed, read_cases, read_outcomes
    from jipflow.files import write_parquet
    from jipflow.settings.config import read_settings

    cases, settings = read_cases(arguments.cases), read_settings(arguments.settings)
    inbox = settings.inbox(arguments.results)
    tables = run(
        cases=cases,
        prepared=passed(read_outcomes(arguments.prepared)),
        segmented=read_outcomes(arguments.segmented),
        settings=settings,
        volumes=arguments.volumes,
        automatic=arguments.automatic,
        inbox=inbox,
        masks=arguments.masks,
        threads=arguments.threads,
    )
    write_worklist(
        cases=cases,
        outcomes=tables.outcomes,
        settings=settings,
        automatic=arguments.automatic,
        inbox=inbox,
        results=arguments.results,
        threads=arguments.threads,
    )
    write_parquet(arguments.readings, tables.readings)
    write_parquet(arguments.agreement, tables.agreement)
    write_parquet(arguments.quality, tables.quality)
    _finish(arguments.outcomes, tables.outcomes)


def _encode(arguments: argparse.Namespace) -> None:
    from jipflow.cases import passed, read_cases
    from jipflow.objects.seg_writer import run
    from jipflow.settings.config import read_settings

    segmented = _all_outcomes(arguments.segmented)
    outcomes = run(
        cases=read_cases(arguments.cases),
        segmented=passed(segmented),
        settings=read_settings(arguments.settings),
        masks=arguments.masks,
        results=arguments.results,
        threads=arguments.threads,
    )
    _finish(arguments.outcomes, outcomes, segmented)


def _measure(arguments: argparse.Namespace) -> None:
    from jipflow.cases import passed, read_cases
    from jipflow.files import write_parquet
    from jipflow.radiomics.measure import run
    from jipflow.settings.config import read_settings

    segmented = _all_outcomes(arguments.segmented)
    tables = run(
        cases=read_cases(arguments.cases),
        segmented=passed(segmented),
        settings=read_settings(arguments.settings),
        volumes=arguments.volumes,
        masks=arguments.masks,
        threads=arguments.threads,
    )
    write_parquet(arguments.features, tables.features)
    write_parquet(arguments.failures, tables.failures)
    write_parquet(arguments.perturbed, tables.perturbed)
    _finish(arguments.outcomes, tables.outcomes, segmented)


def _document(arguments: argparse.Namespace) -> None:
    from jipflow.cases import passed, read_cases, read_outcomes
    from jipflow.objects.sr import run
    from jipflow.settings.config import read_settings

    encoded, measured = read_outcomes(arguments.encoded), read_outcomes(arguments.measured)
    outcomes = run(
        cases=read_cases(arguments.cases),
        measured=passed(encoded) & passed(measured),
        settings=read_settings(arguments.settings),
        features=arguments.features,
        failures=arguments.failures,
        results=arguments.results,
        threads=arguments.threads,
    )
    _finish(arguments.outcomes, outcomes, [*encoded, *measured])


def _publish(arguments: argparse.Namespace) -> None:
    from jipflow.pacs.publish import run
    from jipflow.settings.config import read_settings

    made = _all_outcomes(arguments.made)
    outcomes = run(
        made=made,
        settings=read_settings(arguments.settings),
        results=arguments.results,
        receipts=arguments.receipts,
    )
    _finish(arguments.outcomes, outcomes, made)


def _overlay(arguments: argparse.Namespace) -> None:
    from jipflow.cases import read_cases
    from jipflow.report.overlays import run
    from jipflow.settings.config import read_settings

    outcomes = run(
        cases=read_cases(arguments.cases),
        settings=read_settings(arguments.settings),
        volumes=arguments.volumes,
        masks=arguments.masks,
        overlays=arguments.out,
        threads=arguments.threads,
    )
    _finish(arguments.outcomes, outcomes)


def _all_outcomes(paths: Sequence[Path]) -> list[Outcome]:
    from jipflow.cases import read_outcomes

    return [outcome for path in paths for outcome in read_outcomes(path)]


def _finish(path: Path, outcomes: Sequence[Outcome], earlier: Sequence[Outcome] = ()) -> None:
    """Write a stage's outcomes and print a line for each.

    Args:
        path: the file.
        outcomes: of the stage.
        earlier: of the stages before it, for whose waiting items it waits, too.
    """
    from jipflow.cases import waiting_with, write_outcomes

    outcomes = waiting_with(outcomes, earlier)
    for outcome in outcomes:
        reason = f" {outcome.reason}: {outcome.message}" if outcome.reason else ""
        print(f"{outcome.case_id} {outcome.stage} {outcome.item}: {outcome.status.value}{reason}")
    write_outcomes(path, outcomes)


def _collect(arguments: argparse.Namespace) -> None:
    from jipflow.collect import Shards, run
    from jipflow.settings.config import read_settings

    result = run(
        shards=Shards(
            outcomes=arguments.outcomes,
            features=arguments.features,
            failures=arguments.failures,
            perturbed=arguments.perturbed,
            readings=arguments.readings,
            agreement=arguments.agreement,
            quality=arguments.quality,
        ),
        tolerance=read_settings(arguments.settings).protocol["tolerance"],
        results=arguments.results,
    )
    print(json.dumps(result))


def _accept(arguments: argparse.Namespace) -> None:
    from jipflow.collect import accept

    accept(arguments.verdict)


def _report(arguments: argparse.Namespace) -> None:
    from jipflow.report.site import write_report
    from jipflow.settings.config import read_settings

    write_report(
        results=arguments.results, settings=read_settings(arguments.settings), path=arguments.out
    )


def _algorithm_check(arguments: argparse.Namespace) -> None:
    from jipflow.cases import StageError
    from jipflow.segment.containers.check import check

    pairs = [text.partition("=") for text in arguments.label]
    if not all(number.isdecimal() and int(number) > 0 for _, _, number in pairs):
        raise StageError("--label is a name and a number from 1, such as --label liver=1.")
    roles = [text.partition("=") for text in arguments.role or ["CT"]]
    failed = 0
    for finding in check(
        image=arguments.image,
        labels={name: int(number) for name, _, number in pairs},
        roles={name: modality or name for name, _, modality in roles},
        runtime=arguments.runtime,
        device=arguments.device,
        threads=arguments.threads,
        minutes=arguments.minutes,
    ):
        print(finding, flush=True)
        failed += bool(finding.problem)
    if failed:
        raise StageError(f"{arguments.image}: {failed} checks failed; docs/algorithms.md helps.")


def _release_build(arguments: argparse.Namespace) -> None:
    from jipflow.files import read_json
    from jipflow.release.release import build
    from jipflow.report.disclosure import write_disclosure_page
    from jipflow.settings.config import read_settings

    build(
        settings=read_settings(arguments.settings),
        features=arguments.features,
        cases=arguments.cases,
        outcomes=arguments.outcomes,
        verdict=arguments.verdict,
        out_dir=arguments.out,
    )
    write_disclosure_page(
        aggregates=read_json(arguments.out / "aggregates.json"),
        disclosure=read_json(arguments.out / "disclosure.json"),
        path=arguments.out / "disclosure.html",
    )


def _release_approve(arguments: argparse.Namespace) -> None:
    from jipflow.release.release import approve

    approve(
        release_dir=arguments.release,
        name=arguments.name,
        key_file=arguments.key,
        attempt=arguments.attempt,
    )
    print(f"approved: {arguments.release / 'approval.json'}; pack it with: snakemake bundle ...")


def _release_bundle(arguments: argparse.Namespace) -> None:
    from jipflow.release.release import bundle
    from jipflow.settings.config import read_settings

    print(
        bundle(
            settings=read_settings(arguments.settings),
            release_dir=arguments.release,
            out_dir=arguments.out,
        )
    )


def _keys_new(arguments: argparse.Namespace) -> None:
    from jipflow.exchange.keys import new_key

    print(new_key(arguments.key))


def _keys_show(arguments: argparse.Namespace) -> None:
    from jipflow.exchange.keys import load_key, public_text

    print(public_text(load_key(arguments.key)))


def _hub_accept(arguments: argparse.Namespace) -> None:
    from jipflow.files import read_json, write_json
    from jipflow.hub.hub import accept

    settings = read_json(arguments.settings)
    accepted, rejected = accept(inbox=Path(settings["hub"]["inbox"]), settings=settings)
    for entry in rejected:
        print(f"rejected {entry['file']}: {entry['reason']}: {entry['detail']}")
    write_json(arguments.accepted, accepted)
    write_json(arguments.rejected, rejected)


def _hub_merge(arguments: argparse.Namespace) -> None:
    from jipflow.files import read_json, write_json
    from jipflow.hub.hub import merge

    write_json(
        arguments.out,
        merge(accepted=read_json(arguments.accepted), settings=read_json(arguments.settings)),
    )


def _hub_report(arguments: argparse.Namespace) -> None:
    from jipflow.files import read_json
    from jipflow.report.hub import write_hub_report

    write_hub_report(
        result=read_json(arguments.result),
        accepted=read_json(arguments.accepted),
        rejected=read_json(arguments.rejected),
        path=arguments.out,
    )


def _train_data(arguments: argparse.Namespace) -> None:
    from jipflow.cases import passed, read_cases, read_outcomes
    from jipflow.settings.config import read_settings
    from jipflow.training.data import run

    segmented = _all_outcomes(arguments.segmented)
    outcomes = run(
        cases=read_cases(arguments.cases),
        prepared=passed(read_outcomes(arguments.prepared)),
        segmented=passed(segmented),
        settings=read_settings(arguments.settings),
        volumes=arguments.volumes,
        masks=arguments.masks,
        out=arguments.out,
        threads=arguments.threads,
    )
    _finish(arguments.outcomes, outcomes, segmented)


def _train_plan(arguments: argparse.Namespace) -> None:
    from jipflow.cases import read_outcomes
    from jipflow.settings.config import read_settings
    from jipflow.training.plan import plan

    outcomes = [outcome for path in arguments.outcomes for outcome in read_outcomes(path)]
    settings = read_settings(arguments.settings)
    plan(
        work=arguments.work,
        cases=arguments.cases,
        outcomes=outcomes,
        settings=settings,
        threads=arguments.threads,
    )


def _train_fit(arguments: argparse.Namespace) -> None:
    from jipflow.settings.config import read_settings
    from jipflow.training.fit import fit

    settings = read_settings(arguments.settings)
    device = settings.site["processing"]["device"]
    fit(
        work=arguments.work,
        fold=arguments.fold,
        training=settings.protocol["training"],
        device=device,
        threads=arguments.threads,
    )


def _train_evaluate(arguments: argparse.Namespace) -> None:
    from jipflow.settings.config import read_settings
    from jipflow.training.evaluate import evaluate

    settings = read_settings(arguments.settings)
    device = settings.site["processing"]["device"]
    evaluate(
        work=arguments.work,
        part=arguments.part,
        settings=settings,
        device=device,
        threads=arguments.threads,
        out=arguments.out,
    )


def _train_report(arguments: argparse.Namespace) -> None:
    from jipflow.cases import read_outcomes
    from jipflow.report.training import write_training_report
    from jipflow.settings.config import read_settings
    from jipflow.training.evaluate import summarise

    settings = read_settings(arguments.settings)
    summarise(
        work=arguments.work,
        outcomes=[outcome for path in arguments.outcomes for outcome in read_outcomes(path)],
        tables=arguments.evaluations,
        settings=settings,
        summary=arguments.out / "summary.json",
        evaluation=arguments.out / "evaluation.parquet",
    )
    write_training_report(folder=arguments.out, work=arguments.work, settings=settings)


def _train_register(arguments: argparse.Namespace) -> None:
    from jipflow.settings.config import read_settings
    from jipflow.training.export import export

    settings = read_settings(arguments.settings)
    export(
        work=arguments.work,
        settings=settings,
        summary=arguments.summary,
        folder=arguments.model,
        registry=arguments.registry,
    )


def _models_fetch(arguments: argparse.Namespace) -> None:
    from jipflow.models.store import fetch, fetch_from_bundle, known_models

    if arguments.bundle is not None:
        taken = fetch_from_bundle(arguments.bundle, arguments.name)
    else:
        taken = {model.name: fetch(model) for model in known_models(arguments.name)}
    for name, files in taken.items():
        print(f"{name}: {len(files)} files fetched, the others were there")


def _models_verify(arguments: argparse.Namespace) -> None:
    from jipflow.cases import StageError
    from jipflow.models.registry import problems
    from jipflow.models.store import known_models

    wrong = []
    for model in known_models(arguments.name):
        found = list(problems(model))
        print("\n".join(f"{model.name}: {line}" for line in found or ["ok"]))
        if found:
            wrong.append(model.name)
    if wrong:
        raise StageError(f"these models are not the pinned ones: {', '.join(wrong)}.")


def _models_bundle(arguments: argparse.Namespace) -> None:
    from jipflow.files import sha256_file
    from jipflow.models.store import known_models, write_bundle

    write_bundle(arguments.out, known_models(arguments.name))
    print(f"{sha256_file(arguments.out)}  {arguments.out}")


def _models_add(arguments: argparse.Namespace) -> None:
    from jipflow.models.store import add

    entry = add(
        arguments.name, folder=arguments.folder, about=arguments.about, replace=arguments.replace
    )
    print(f"{arguments.name}: {len(entry['files'])} files pinned in {entry['path']}")
