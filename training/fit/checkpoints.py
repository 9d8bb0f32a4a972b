"""Checkpoints that can be trusted: complete or ignored, of this run or refused, and the best weights beside them.

DIR/run.json               what run the checkpoints belong to
DIR/checkpoint-120/        the Trainer's own files, average.safetensors where weights are averaged, and COMPLETE, last
DIR/best.safetensors       weights of the best evaluation so far with its loss, step and a hash, replaced in one step

These stand in the weights' own file because SageMaker copies a directory to S3 file by file, at any moment: of two
files that belong together it would keep one old and one new.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classifier.model import GPT2Classifier
from training.errors import ConfigError
from training.fit.distributed import is_main, share

COMPLETE = "COMPLETE"
RUN = "run.json"
AVERAGE = "average.safetensors"
BEST = "best.safetensors"
WEIGHTS = "model.safetensors"
"""What the Trainer calls a checkpoint's own weights."""


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


def tensors_sha256(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hash of names and contents, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class Evaluation(NamedTuple):
    """A loss on the validation texts, in nats, and the step after which it was measured."""

    loss: float = math.inf
    step: int = 0


def read_best(path: Path) -> Evaluation | None:
    """The evaluation whose weights a file of `write_best` holds; None where it is missing or not as it was written."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        if said.get("sha256") == tensors_sha256(sorted(load_file(path).items())):
            return Evaluation(float(said["eval_loss"]), int(said["step"]))
    except (OSError, SafetensorError):
        pass
    return None


def write_best(path: Path, evaluation: Evaluation, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace the file in one step."""
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    said = {"eval_loss": repr(evaluation.loss), "step": str(evaluation.step)}
    unfinished = path.with_name(f".{path.name}.unfinished")
    save_file(stored, unfinished, said | {"sha256": tensors_sha256(sorted(stored.items()))})
    os.replace(unfinished, path)


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
        self._best = share((read_best(self._weights) if is_main() else None) or Evaluation())

    def load(self, checkpoint: Path) -> None:
        """Make sure of the best weights that the run had when it wrote the checkpoint; called in every process.

        Where a platform copies files while they are written and was stopped before it had copied all, those beside the
        checkpoint may be older. Then the checkpoint of their step has them; where that is gone, too, the best that is
        left counts, and a warning says so.
        """
        if is_main():
            self._recover(checkpoint)
        self._best = share(self._best)

    def _recover(self, checkpoint: Path) -> None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        log = state["log_history"]
        had = [Evaluation(one["eval_loss"], one["step"]) for one in log if one.get("eval_loss", math.inf) < math.inf]
        for evaluation in sorted(had):
            place = checkpoint.with_name(f"checkpoint-{evaluation.step}")
            if evaluation.loss >= self._best.loss:
                break
            if _is_whole(place):
                self._best = evaluation
                write_best(self._weights, evaluation, load_file(place / WEIGHTS))
        if had and min(had).loss < self._best.loss:
            left = (
                f"the best left is that of step {self._best.step}, {self._best.loss:.6g}"
                if self._best.step
                else "none is left"
            )
            sys.stderr.write(
                f"warning: {self._weights} is missing, damaged or old, and no checkpoint has the weights of step "
                f"{min(had).step}, the best so far with validation loss {min(had).loss:.6g}; {left}\n"
            )

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
        if not metrics["eval_loss"] < self._best.loss:  # nor is one that is no number
            # counted from the log, which checkpoints keep: a resumed run stops where an uninterrupted one does
            since = sum("eval_loss" in entry and entry["step"] > self._best.step for entry in state.log_history)
            control.should_training_stop |= bool(self._patience and since >= self._patience)
            return
        self._best = Evaluation(metrics["eval_loss"], state.global_step)
        if state.is_world_process_zero:
            write_best(self._weights, self._best, model.state_dict())

    def loss(self) -> float:
        """Validation loss of the weights kept, in nats; infinite before the first."""
        return self._best.loss

    def save(self, checkpoint: Path) -> None:
        """Nothing: they stand beside the checkpoints."""

    def restore(self, model: GPT2Classifier) -> None:
        """Put the best weights into the model."""
        if self._best.step and self._weights.exists():  # of several hosts one has them
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
