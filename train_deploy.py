"""Script mode: the entry point that AWS's PyTorch and Hugging Face estimators run, for training and for serving.

    PyTorch(entry_point="train_deploy.py", source_dir="code", hyperparameters={"epochs": 1, "batch-size": 2})

`python -m training.sagemaker.job.pack --source code` writes that directory. The flags are those of
`python -m training train` and those of the channels. `training.sagemaker.job.container` runs the training.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any


def train(arguments: Sequence[str] | None = None) -> int:
    """Train by the flags and the job's channels, and return the exit code."""
    from training.config import TrainConfig
    from training.options import flag, help_text
    from training.sagemaker.job.container import run_job
    from training.sagemaker.job.hyperparameters import PLACED
    from training.sagemaker.job.settings import JobPaths

    parser = argparse.ArgumentParser(prog="train_deploy.py", description=__doc__, allow_abbrev=False)
    for field in dataclasses.fields(TrainConfig):
        if field.name not in PLACED:
            parser.add_argument(
                flag(field.name), nargs="?", const="true", default=argparse.SUPPRESS, help=help_text(field)
            )
    places = parser.add_argument_group("directories and hosts, by default the platform's")
    variables = {
        "--model-dir": "SM_MODEL_DIR", "--train-dir": "SM_CHANNEL_TRAIN", "--val-dir": "SM_CHANNEL_VAL",
        "--test-dir": "SM_CHANNEL_TEST", "--num-gpus": "SM_NUM_GPUS", "--hosts": "SM_HOSTS",
        "--current-host": "SM_CURRENT_HOST",
    }  # fmt: skip
    for option, variable in variables.items():
        places.add_argument(option, dest=variable, default=argparse.SUPPRESS, help=f"default: ${variable}")
    known, rest = parser.parse_known_args(arguments)
    given = vars(known)
    # unknown arguments go to the failure file, because nobody would see the message with which argparse exits
    unknown = {word[2:].partition("=")[0]: "" for word in rest if word.startswith("--")}
    moved = {name: str(given.pop(name)) for name in variables.values() if name in given}
    found = JobPaths.read()
    return run_job(dataclasses.replace(found, variables={**found.variables, **moved}), given | unknown)


def model_fn(model_dir: str, context: Any = None) -> Any:
    """Return the classifier; for this and the next three see `training.sagemaker.handlers.inference`."""
    from training.sagemaker.handlers import inference

    return inference.model_fn(model_dir, context)


def input_fn(body: str | bytes, content_type: str = "application/json") -> Any:
    """Return the body of a request, such as the article's {"text": "..."}."""
    from training.sagemaker.handlers import inference

    return inference.input_fn(body, content_type)


def predict_fn(data: Any, model: Any) -> Any:
    """Return the answer, for the article's request the probabilities by label, most probable first."""
    from training.sagemaker.handlers import inference

    return inference.predict_fn(data, model)


def output_fn(prediction: Any, accept: str = "application/json") -> tuple[str, str]:
    """Return the answer as JSON, and its media type."""
    from training.sagemaker.handlers import inference

    return inference.output_fn(prediction, accept)


if __name__ == "__main__":
    sys.exit(train())
