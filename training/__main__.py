"""The command line of training: prepare, inspect, pretrain, train, evaluate, convert.

Exit codes: 0 done, 2 something about the input that the message explains (nothing was written), 130 interrupted.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from training.config import Config, PretrainConfig, TrainConfig, load_config
from training.errors import TrainingError
from training.options import add_options, given_options

INPUT_ERROR = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    from classifier.errors import ClassifierError

    command: Callable[[argparse.Namespace], None] = parsed.command
    signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: temporary checkpoints go, nothing half is left
    try:
        command(parsed)
    except (TrainingError, ClassifierError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return INPUT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written but checkpoints, from which the same command goes on\n")
        return INTERRUPTED
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="fine-tune GPT-2 on labelled texts and write an artifact")
    train.add_argument("--config", type=Path, help="a TOML file with settings, see training/configs")
    add_options(train, TrainConfig)
    train.set_defaults(command=_train)

    pretrain = commands.add_parser("pretrain", help="make a compact GPT-2 language model to fine-tune from")
    pretrain.add_argument("--config", type=Path, help="a TOML file with settings, see training/configs")
    add_options(pretrain, PretrainConfig)
    pretrain.set_defaults(command=_pretrain)

    evaluate = commands.add_parser("evaluate", help="measure an artifact on a file of labelled texts")
    evaluate.add_argument("--artifact", type=Path, required=True, help="the artifact's directory")
    _add_columns(evaluate, "CSV, TSV, JSON Lines or Parquet")
    evaluate.add_argument("--skip-unlabelled", action="store_true", help="leave out rows whose label is empty")
    evaluate.add_argument("--report", type=Path, help="write report.html, metrics.json and plots to this directory")
    evaluate.add_argument("--json", action="store_true", help="all figures as JSON")
    evaluate.set_defaults(command=_evaluate)

    inspect = commands.add_parser("inspect", help="report classes, lengths, duplicates, leaks and suspicious labels")
    _add_columns(inspect, "a file or a directory, as `train` takes it")
    inspect.add_argument("--group-column", default="", help="default: 'near_dup_group' or 'group', else computed")
    inspect.add_argument("--output", type=Path, required=True, help="directory for data.md and data.json")
    inspect.set_defaults(command=_inspect)

    convert = commands.add_parser("convert", help="make an artifact of the article's model.pth or model.tar.gz")
    convert.add_argument("checkpoint", type=Path, help="model.pth, or a model.tar.gz with it")
    convert.add_argument("--output", type=Path, required=True, help="the artifact's directory")
    convert.add_argument("--labels", required=True, help="separated by commas, in the order of the head's rows")
    convert.add_argument("--tokenizer", default="gpt2", help="a Hugging Face name or a local directory")
    convert.add_argument("--heads", type=int, default=0, help="attention heads; default: one each 64 dimensions")
    convert.add_argument(
        "--padded-rows",
        choices=("transformers-4", "transformers-5"),
        default="transformers-4",
        help="the transformers it was trained with; they compute padding differently, and this head reads padding",
    )
    convert.add_argument("--keep-case", action="store_true", help="its texts were not lower-cased")
    convert.add_argument("--name", default="", help="the model's name; default: the output directory's")
    convert.add_argument("--overwrite", action="store_true", help="replace an artifact that stands at the output")
    convert.set_defaults(command=_convert)

    prepare = commands.add_parser("prepare", help="make one clean CSV of the public BBC News archive")
    prepare.add_argument("--archive", type=Path, help="a local bbc-fulltext.zip; default: fetch the public one")
    prepare.add_argument("--sha256", default="", help="refuse an archive with another SHA-256")
    prepare.add_argument("--output", type=Path, required=True, help="the CSV to write")
    prepare.set_defaults(command=_prepare)
    return parser


def _add_columns(parser: argparse.ArgumentParser, data: str) -> None:
    parser.add_argument("--data", required=True, help=f"{data}; local, or anything fsspec opens")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="", help="default: 'label' or 'category'")
    parser.add_argument("--title-column", default="", help="default: 'title' where there is one")
    parser.add_argument("--no-use-title", dest="use_title", action="store_false", help="leave titles out")
    parser.add_argument("--encoding", default="utf-8")


def _train(parsed: argparse.Namespace) -> None:
    config = _config(TrainConfig, parsed)
    from training.fit.run import report_directory, run
    from training.report.evaluate import figure_lines

    artifact = run(config)
    if artifact is None:
        return
    print("\n".join(figure_lines(artifact.manifest.metrics)))
    print(f"wrote {artifact.directory}" + (f" and {report_directory(config)}" if config.report else ""))


def _pretrain(parsed: argparse.Namespace) -> None:
    config = _config(PretrainConfig, parsed)
    from training.fit.pretrain import pretrain

    measured = pretrain(config)
    if measured is None:
        return
    print(" ".join(f"{key}={value:.6g};" for key, value in measured.items()))
    print(f"wrote {config.output}")


def _config(kind: type[Config], parsed: argparse.Namespace) -> Config:
    """Return the settings of the file given by --config, with those given as options on top."""
    return load_config(kind, parsed.config, given_options(kind, parsed))


def _evaluate(parsed: argparse.Namespace) -> None:
    from training.data.read import Columns
    from training.data.sources import local_copy
    from training.report.evaluate import evaluate, figure_lines

    columns = Columns(parsed.text_column, parsed.label_column, parsed.title_column, use_title=parsed.use_title)
    with local_copy(parsed.data) as data:
        measured = evaluate(
            parsed.artifact,
            data,
            columns,
            encoding=parsed.encoding,
            skip_unlabelled=parsed.skip_unlabelled,
            report=parsed.report,
        )
    if parsed.json:
        print(json.dumps(measured, indent=2))
    else:
        print("\n".join(figure_lines(measured)))


def _inspect(parsed: argparse.Namespace) -> None:
    from training.data.inspect import report_data
    from training.data.read import Columns
    from training.data.sources import local_copy

    columns = Columns(
        parsed.text_column, parsed.label_column, parsed.title_column, parsed.group_column, parsed.use_title
    )
    with local_copy(parsed.data) as data:
        facts = report_data(data, parsed.output, columns, encoding=parsed.encoding)
    print(
        f"rows={facts['rows']}; labels={len(facts['labels'])}; near_duplicate_groups={facts['near_duplicate_groups']}; "
        f"leaks={len(facts['leaks'])}; groups_with_several_labels={len(facts['groups_with_several_labels'])}; "
        f"suspicious_labels={len(facts['suspicious'])};"
    )
    print(f"wrote {parsed.output / 'data.md'}")


def _convert(parsed: argparse.Namespace) -> None:
    from training.convert import Conversion, convert

    settings = Conversion(
        labels=tuple(name.strip() for name in parsed.labels.split(",")),
        tokenizer=parsed.tokenizer,
        heads=parsed.heads,
        padded_rows=parsed.padded_rows,
        lowercase=not parsed.keep_case,
        name=parsed.name,
    )
    print(f"wrote {convert(parsed.checkpoint, parsed.output, settings, overwrite=parsed.overwrite).directory}")


def _prepare(parsed: argparse.Namespace) -> None:
    from training.data.bbc import prepare

    summary = prepare(parsed.output, archive=parsed.archive, sha256=parsed.sha256)
    print(summary)


if __name__ == "__main__":
    sys.exit(main())
