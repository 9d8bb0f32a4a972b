"""The command line of training: prepare, train, evaluate.

Exit codes: 0 done, 2 something about the input that the message explains (nothing was written), 130 interrupted.
"""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.config import TrainConfig, load_config
from training.errors import TrainingError

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
        sys.stderr.write("interrupted; nothing was written\n")
        return INTERRUPTED
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="fine-tune GPT-2 on labelled texts and write an artifact")
    train.add_argument("--config", type=Path, help="a TOML file with settings, see training/configs")
    _add_settings(train)
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="measure an artifact on a file of labelled texts")
    evaluate.add_argument("--artifact", type=Path, required=True, help="the artifact's directory")
    evaluate.add_argument("--data", type=Path, required=True, help="CSV, TSV, JSON Lines or Parquet")
    evaluate.add_argument("--text-column", default="text")
    evaluate.add_argument("--label-column", default="", help="default: 'label' or 'category'")
    evaluate.add_argument("--title-column", default="", help="default: 'title' where there is one")
    evaluate.add_argument("--no-use-title", dest="use_title", action="store_false", help="leave titles out")
    evaluate.add_argument("--encoding", default="utf-8")
    evaluate.add_argument("--skip-unlabelled", action="store_true", help="leave out rows whose label is empty")
    evaluate.add_argument("--report", type=Path, help="write report.html, metrics.json and plots to this directory")
    evaluate.add_argument("--json", action="store_true", help="all figures as JSON")
    evaluate.set_defaults(command=_evaluate)

    prepare = commands.add_parser("prepare", help="make one clean CSV of the public BBC News archive")
    prepare.add_argument("--archive", type=Path, help="a local bbc-fulltext.zip; default: fetch the public one")
    prepare.add_argument("--sha256", default="", help="refuse an archive with another SHA-256")
    prepare.add_argument("--output", type=Path, required=True, help="the CSV to write")
    prepare.set_defaults(command=_prepare)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata["help"].replace("%", "%%")
        keywords: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, **keywords)
        else:
            shown = text if field.default == "" else f"{text} (default: {field.default})"
            choices = field.metadata["choices"] or None
            parser.add_argument(flag, type=field.type, help=shown, choices=choices, **keywords)


def _train(parsed: argparse.Namespace) -> None:
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    config = load_config(parsed.config, {key: value for key, value in vars(parsed).items() if key in names})
    from training.run import report_directory, run

    artifact = run(config)
    measured = artifact.manifest.metrics
    _print_figures(measured)
    if "baseline" in measured:
        baseline = measured["baseline"]
        print(f"baseline_accuracy={baseline['accuracy']:.4f}; baseline_macro_f1={baseline['macro_f1']:.4f};")
    print(f"wrote {artifact.directory}" + (f" and {report_directory(config)}" if config.report else ""))


def _evaluate(parsed: argparse.Namespace) -> None:
    from training.data import Columns
    from training.evaluate import evaluate

    columns = Columns(text=parsed.text_column, label=parsed.label_column, title=parsed.title_column)
    columns = dataclasses.replace(columns, use_title=parsed.use_title)
    measured = evaluate(
        parsed.artifact,
        parsed.data,
        columns,
        encoding=parsed.encoding,
        skip_unlabelled=parsed.skip_unlabelled,
        report=parsed.report,
    )
    if parsed.json:
        print(json.dumps(measured, indent=2))
    else:
        _print_figures(measured)


def _prepare(parsed: argparse.Namespace) -> None:
    from training.prepare import prepare

    summary = prepare(parsed.output, archive=parsed.archive, sha256=parsed.sha256)
    print(summary)


def _print_figures(measured: dict[str, Any]) -> None:
    print(
        f"test_rows={measured['rows']}; test_accuracy={measured['accuracy']:.4f}; "
        f"test_macro_f1={measured['macro_f1']:.4f};"
    )
    for name, row in measured["per_class"].items():
        scores = "  ".join(f"{key} {row[key]:.3f}" for key in ("precision", "recall", "f1"))
        print(f"  {name:<20} {scores}  rows {row['rows']}")
    calibration = measured["calibration"]
    print(
        f"ece={calibration['ece']:.4f}; coverage={calibration['coverage']:.4f}; "
        f"error_among_answered={calibration['error_among_answered']:.4f};"
    )


if __name__ == "__main__":
    sys.exit(main())
