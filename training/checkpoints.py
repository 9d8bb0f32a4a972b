"""Checkpoints that can be trusted: complete or ignored, of this run or refused, and the best weights beside them.

DIR/run.json               what run the checkpoints belong to
DIR/checkpoint-120/        the Trainer's own files, average.safetensors where weights are averaged, and COMPLETE, last
DIR/best.safetensors       weights of the best evaluation so far with its loss and step, replaced in one step

The loss stands in the weights' own file because SageMaker copies a directory to S3 file by file, at any moment: of two
files that belong together it would keep one old and one new.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classifier.model import GPT2Classifier
from training.errors import ConfigError

COMPLETE = "COMPLETE"
RUN = "run.json"
AVERAGE = "average.safetensors"
BEST = "best.safetensors"


def check_place(directory: Path, output: Path) -> None:
    """Checkpoints within the output would make it unwritable at the very end.

    Raises:
        ConfigError: they would stand at or below the output.
    """
    if directory.absolute().is_relative_to(output.absolute()):
        raise ConfigError(f"checkpoints {directory} stand within the output {output}; choose a place beside it")


def claim(directory: Path, identity: Mapping[str, Any], *, derived: Iterable[str] = ()) -> None:
    """Make the directory this run's, or make sure that it already is.

    A directory of another run that has no complete checkpoint yet is taken over: nothing is lost with it.

    Args:
        directory: of the checkpoints.
        identity: everything that the weights depend on, as JSON values.
        derived: files in it that were made for the run and go when it is taken over.

    Raises:
        ConfigError: it holds checkpoints of another run, and the message names what differs; or files of somebody
            else; or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _claim(directory, json.loads(json.dumps(identity)), derived)
    except OSError as exc:
        raise ConfigError(f"{directory}: no place for checkpoints: {exc}") from exc


def _claim(directory: Path, wanted: dict[str, Any], derived: Iterable[str]) -> None:
    path = directory / RUN
    if not path.exists():
        if any(not path.name.startswith(".") and ".sagemaker-" not in path.name for path in directory.iterdir()):
            raise ConfigError(f"{directory} holds files that are no checkpoints of ours; choose another --checkpoints")
        _replace(path, json.dumps(wanted, indent=2))
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigError(f"{path}: not readable ({exc}); remove the directory to begin anew") from exc
    differing = sorted(key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key))
    if differing and latest_complete(directory) is None:
        for name in (*derived, BEST):
            (directory / name).unlink(missing_ok=True)
        _replace(path, json.dumps(wanted, indent=2))
    elif differing:
        shown = "; ".join(f"{key} is {there.get(key)!r} there and {wanted.get(key)!r} here" for key in differing)
        raise ConfigError(f"{directory} holds checkpoints of another run: {shown}. Choose another --checkpoints")


def mark_complete(checkpoint: Path) -> None:
    """Call after everything else of the checkpoint is written.

    The marker lists the files with their sizes: a platform that copies checkpoints elsewhere while it trains may have
    copied the marker before the rest.
    """
    sizes = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir()) if path.name in _kept(checkpoint)}
    _replace(checkpoint / COMPLETE, json.dumps(sizes, indent=2))


def _kept(checkpoint: Path) -> set[str]:
    """Names of the checkpoint's own files; hidden ones and marks like `x.sagemaker-uploaded` are the system's."""
    return {
        path.name
        for path in checkpoint.iterdir()
        if path.is_file() and not path.name.startswith(".") and ".sagemaker-" not in path.name and path.name != COMPLETE
    }


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def latest_complete(directory: Path) -> Path | None:
    """The newest complete checkpoint. Incomplete ones, cut off by a kill, are removed on the way."""
    complete: dict[int, Path] = {}
    for path in directory.glob("checkpoint-*"):
        if not re.fullmatch(r"checkpoint-\d+", path.name):
            continue
        if _is_whole(path):
            complete[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path, ignore_errors=True)  # another process may be at it too
    return complete[max(complete)] if complete else None


def complete_steps(directory: Path) -> list[int]:
    """Steps of all complete checkpoints."""
    names = [path.name for path in directory.glob("checkpoint-*") if _is_whole(path)]
    return [int(name.removeprefix("checkpoint-")) for name in names if re.fullmatch(r"checkpoint-\d+", name)]


class BestWeights(TrainerCallback):
    """Keeps the weights of the evaluation with the lowest loss, and stops a run that gets no better.

    Args:
        directory: of the checkpoints.
        patience: evaluations without a better one after which training stops; 0: never.

    The Trainer could, but only where it also writes a whole checkpoint after each evaluation.
    """

    def __init__(self, directory: Path, patience: int = 0) -> None:
        self._patience = patience
        self._weights = directory / BEST
        # Of torchrun's processes one writes, and all must decide alike: each keeps the record in memory.
        self._best: dict[str, float] = {"eval_loss": float("inf"), "step": 0}
        if self._weights.exists():
            with safe_open(self._weights, "pt") as file:
                self._best = {name: float(value) for name, value in file.metadata().items() if name in self._best}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        model: GPT2Classifier | None = None,
        **_: Any,
    ) -> None:
        if metrics is None or model is None:
            return
        if metrics["eval_loss"] >= self.loss():
            # counted from the log, which checkpoints keep: a resumed run stops where an uninterrupted one does
            since = sum("eval_loss" in entry and entry["step"] > self._best["step"] for entry in state.log_history)
            control.should_training_stop |= bool(self._patience and since >= self._patience)
            return
        self._best = {"eval_loss": metrics["eval_loss"], "step": state.global_step}
        if not state.is_world_process_zero:
            return
        unfinished = self._weights.with_suffix(".unfinished")
        weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, unfinished, metadata={name: repr(value) for name, value in self._best.items()})
        os.replace(unfinished, self._weights)

    def loss(self) -> float:
        """Validation loss of the weights kept, in nats; infinite before the first."""
        return self._best["eval_loss"]

    def restore(self, model: GPT2Classifier) -> None:
        """Put the best weights into the model."""
        if self._weights.exists():
            model.load_state_dict(load_file(self._weights, device=str(model.device)))


class AveragedWeights(TrainerCallback):
    """The mean of the weights after each of the last steps, which errs less than any of them.

    After P. Izmailov and others, "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.

    Args:
        part: of all steps, the last ones, that are averaged.
    """

    def __init__(self, part: float) -> None:
        self._part = part
        self._sum: dict[str, torch.Tensor] = {}
        self._steps = 0

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: GPT2Classifier | None = None,
        **_: Any,
    ) -> None:
        if model is None or state.global_step <= (1 - self._part) * state.max_steps:
            return
        self._steps += 1
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # a frozen one is kept as it is, not as its own rounded mean
                continue
            if name in self._sum:
                self._sum[name] += parameter.detach().to("cpu")
            else:
                self._sum[name] = parameter.detach().to("cpu", copy=True)

    def load(self, checkpoint: Path) -> None:
        """Go on from what `save` wrote there, if it did."""
        path = checkpoint / AVERAGE
        if path.exists():
            self._sum = load_file(path)
            self._steps = int(self._sum.pop("steps"))

    def save(self, checkpoint: Path) -> None:
        """Before the checkpoint is marked as complete."""
        if self._steps:
            save_file(self._sum | {"steps": torch.tensor(self._steps)}, checkpoint / AVERAGE)

    def restore(self, model: GPT2Classifier) -> None:
        """Put the mean into the model."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self._sum:
                    parameter.copy_(self._sum[name] / self._steps)


def _replace(path: Path, content: str) -> None:
    """Write a small file in one step, on the disk when this returns."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
