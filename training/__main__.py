"""Train and measure GPT-2 classifiers.

Exit codes: 0: done, and if a report could not be written, a warning says why; 2: the input is wrong, the message says
why, and nothing was written; 130: interrupted; 1: another failure, such as a full disk, with a traceback.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from training.config import Config, DataConfig, DistilConfig, PretrainConfig, TrainConfig, load_config
from training.errors import TrainingError
from training.options import add_options, from_options, given_options

INPUT_ERROR = 2
INTERRUPTED = 130

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    from classifier.errors import ClassifierError

    command: Command = parsed.command
    signal.signal(signal.SIGTERM, _interrupt)  # like Ctrl-C, so that temporary checkpoints are removed
    try:
        command(parsed)
    except (TrainingError, ClassifierError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return INPUT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted; an artifact is there whole or not at all; this command continues from checkpoints\n"
        )
        return INTERRUPTED
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, command: Command) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, usage="%(prog)s [OPTIONS]")
        verb.set_defaults(command=command)
        return verb

    prepare = add("prepare", "make one clean CSV of the public BBC News archive", _prepare)
    prepare.add_argument("--archive", type=Path, help="local bbc-fulltext.zip; default: download the public archive")
    prepare.add_argument(
        "--sha256", default="", help="required SHA-256 of the archive; default: its articles must be those of BBC News"
    )
    prepare.add_argument("--output", type=Path, required=True, help="CSV to write")

    inspect = add("inspect", "report classes, lengths, duplicates, leaks and suspicious labels of a data set", _inspect)
    add_options(inspect, DataConfig)
    inspect.add_argument("--output", type=Path, required=True, help="directory for data.md and data.json")

    pretrain = add("pretrain", "train a compact GPT-2 language model to fine-tune from", _pretrain)
    pretrain.add_argument("--config", type=Path, help="TOML file with settings, see training/configs")
    add_options(pretrain, PretrainConfig)

    distil = add("distil", "train a compact GPT-2 on the vectors of a sentence encoder, to fine-tune from", _distil)
    distil.add_argument("--config", type=Path, help="TOML file with settings, see training/configs")
    add_options(distil, DistilConfig)

    train = add("train", "fine-tune GPT-2 on labelled texts and write an artifact", _train)
    train.add_argument("--config", type=Path, help="TOML file with settings, see training/configs")
    add_options(train, TrainConfig)

    crossval = add("crossval", "train and measure a recipe once for each of several folds", _crossval)
    crossval.add_argument("--config", type=Path, help="TOML file with settings, see training/configs")
    add_options(crossval, TrainConfig)

    evaluate = add("evaluate", "measure an artifact on one file of labelled texts", _evaluate)
    evaluate.add_argument("--artifact", type=Path, required=True, help="directory of the artifact")
    add_options(evaluate, DataConfig)
    evaluate.add_argument("--skip-unlabelled", action="store_true", help="leave out rows with an empty label")
    evaluate.add_argument("--report", type=Path, help="directory for report.html, metrics.json and plots")
    evaluate.add_argument("--json", action="store_true", help="print all metrics as JSON")

    calibrate = add("calibrate", "fit temperature and threshold of an artifact again, and measure it", _calibrate)
    calibrate.add_argument("--artifact", type=Path, required=True, help="directory of the artifact, which is replaced")
    calibrate.add_argument("--data", required=True, help="the labelled texts that it was trained on")

    convert = add("convert", "make an artifact from the article's model.pth or model.tar.gz", _convert)
    convert.usage = "%(prog)s CHECKPOINT [OPTIONS]"
    convert.add_argument("checkpoint", type=Path, help="model.pth, or a model.tar.gz that contains it")
    convert.add_argument("--output", type=Path, required=True, help="directory of the artifact")
    convert.add_argument("--labels", required=True, help="labels in the order of the head's rows, separated by commas")
    convert.add_argument("--tokenizer", default="gpt2", help="Hugging Face name or local directory (default: gpt2)")
    convert.add_argument("--heads", type=int, default=0, help="attention heads; default: one per 64 dimensions")
    convert.add_argument(
        "--padded-rows",
        choices=("transformers-4", "transformers-5"),
        default="transformers-4",
        help="version of transformers that trained the checkpoint; the two compute padding differently, and this head "
        "reads padding (default: transformers-4)",
    )
    convert.add_argument("--keep-case", action="store_true", help="do not lower-case texts")
    convert.add_argument("--name", default="", help="name of the model; default: the name of the output directory")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing artifact at the output")
    return parser


def _prepare(parsed: argparse.Namespace) -> None:
    from training.data.bbc import prepare

    print(prepare(parsed.output, archive=parsed.archive, sha256=parsed.sha256))


def _inspect(parsed: argparse.Namespace) -> None:
    config = from_options(DataConfig, parsed, required=("data",))
    from training.data.inspect import report_data

    facts = report_data(config, parsed.output)
    print(
        f"rows={facts['rows']}; labels={len(facts['labels'])}; groups={facts['near_duplicate_groups']}; "
        f"rows_with_a_near_duplicate={facts['rows_with_a_near_duplicate']}; "
        f"leaks={len(facts['leaks'])}; groups_with_several_labels={len(facts['groups_with_several_labels'])}; "
        f"suspicious_labels={len(facts['suspicious'])};"
    )
    print(f"wrote {parsed.output / 'data.md'}")


def _pretrain(parsed: argparse.Namespace) -> None:
    config = _config(PretrainConfig, parsed)
    from training.fit.pretrain import pretrain

    with _stopping_after_a_checkpoint():
        _say_base(pretrain(config), config.output)


def _distil(parsed: argparse.Namespace) -> None:
    config = _config(DistilConfig, parsed)
    from training.fit.distil import distil

    with _stopping_after_a_checkpoint():
        _say_base(distil(config), config.output)


def _say_base(measured: Mapping[str, float] | None, output: str) -> None:
    """Print the figures of a new base; None: another process of torchrun does."""
    if measured is not None:
        print(" ".join(f"{key}={value:.6g};" for key, value in measured.items()))
        print(f"wrote {output}")


def _train(parsed: argparse.Namespace) -> None:
    config = _config(TrainConfig, parsed)
    from training.fit.run import report_directory, run
    from training.report.evaluate import metric_lines
    from training.report.html import PAGE

    with _stopping_after_a_checkpoint() if config.checkpoints else nullcontext():
        artifact = run(config)
    if artifact is not None:
        print("\n".join(metric_lines(artifact.manifest.metrics)))
        reported = config.report and (report_directory(config) / PAGE).is_file()
        print(f"wrote {artifact.directory}" + (f" and {report_directory(config)}" if reported else ""))


def _crossval(parsed: argparse.Namespace) -> None:
    config = _config(TrainConfig, parsed)
    from training.fit.crossval import crossval, lines

    with _stopping_after_a_checkpoint() if config.checkpoints else nullcontext():
        figures = crossval(config)
    if figures is not None:
        print("\n".join(lines(figures)))


@contextmanager
def _stopping_after_a_checkpoint() -> Iterator[None]:
    """Let SIGTERM end training after a checkpoint at the end of the step."""
    from training.fit.stopping import Stopped, on_signal

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    except Stopped:
        raise KeyboardInterrupt from None


def _config(kind: type[Config], parsed: argparse.Namespace) -> Config:
    """Return the settings of the file given by --config, with those given as options on top."""
    return load_config(kind, parsed.config, given_options(kind, parsed))


def _evaluate(parsed: argparse.Namespace) -> None:
    config = from_options(DataConfig, parsed, required=("data",))
    from training.report.evaluate import evaluate, metric_lines

    measured = evaluate(parsed.artifact, config, skip_unlabelled=parsed.skip_unlabelled, report=parsed.report)
    print(json.dumps(measured, indent=2) if parsed.json else "\n".join(metric_lines(measured)))


def _calibrate(parsed: argparse.Namespace) -> None:
    from training.fit.run import calibrate
    from training.report.evaluate import metric_lines

    artifact = calibrate(parsed.artifact, parsed.data)
    print("\n".join(metric_lines(artifact.manifest.metrics)))
    print(f"wrote {artifact.directory}")


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


if __name__ == "__main__":
    sys.exit(main())
