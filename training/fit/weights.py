"""The weights that a run ends with: those of its best evaluation, or the mean over its last steps.

The file of the best weights also carries their loss, step and hash, because SageMaker copies a directory to S3 file by
file at any moment: of two files that belong together it might keep an old and a new one.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classifier.model import GPT2Classifier
from training.fit.checkpoints import BEST, is_complete
from training.fit.distributed import is_main, share

AVERAGE = "average.safetensors"
WEIGHTS = "model.safetensors"
"""Name of the weights in a checkpoint of the Trainer."""


def tensors_sha256(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the SHA-256 of names and contents, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class Evaluation(NamedTuple):
    """Validation loss in nats, and the step after which it was measured."""

    loss: float = math.inf
    step: int = 0


def read_best(path: Path) -> Evaluation | None:
    """Return the evaluation of the weights in a file of `write_best`; None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("sha256") == tensors_sha256(sorted(load_file(path).items())):
            return Evaluation(float(metadata["eval_loss"]), int(metadata["step"]))
    except (OSError, SafetensorError):
        pass
    return None


def write_best(path: Path, evaluation: Evaluation, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write weights with their evaluation and hash, replacing the file in one step."""
    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {"eval_loss": repr(evaluation.loss), "step": str(evaluation.step)}
    unfinished = path.with_name(f".{path.name}.unfinished")
    save_file(stored, unfinished, metadata | {"sha256": tensors_sha256(sorted(stored.items()))})
    os.replace(unfinished, path)


class BestWeights(TrainerCallback):
    """Keeps the weights of the evaluation with the lowest loss, and stops a run that no longer improves.

    The Trainer can do so only if it also writes a whole checkpoint after each evaluation.

    Args:
        directory: directory of checkpoints.
        patience: number of evaluations without improvement after which training stops; 0: never.
    """

    def __init__(self, directory: Path, patience: int = 0) -> None:
        self._patience = patience
        self._weights = directory / BEST
        # Only one of torchrun's processes writes, but all must decide alike, so each keeps the record in memory.
        self._best = share((read_best(self._weights) if is_main() else None) or Evaluation())

    def load(self, checkpoint: Path) -> None:
        """Restore the best weights that the run had when it wrote the checkpoint; called in every process.

        A platform that copies files during training may have been stopped before it copied the newest best weights.
        They are then taken from the checkpoint of their step. If that is gone too, the best weights that are left
        count, and a warning says so.
        """
        if is_main():
            self._recover(checkpoint)
        self._best = share(self._best)

    def _recover(self, checkpoint: Path) -> None:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        log = state["log_history"]
        done = sorted(Evaluation(e["eval_loss"], e["step"]) for e in log if e.get("eval_loss", math.inf) < math.inf)
        for evaluation in done:
            if evaluation.loss >= self._best.loss:
                break
            source = checkpoint.with_name(f"checkpoint-{evaluation.step}")
            if is_complete(source):
                self._best = evaluation
                write_best(self._weights, evaluation, load_file(source / WEIGHTS))
        if done and done[0].loss < self._best.loss:
            step, loss = self._best.step, self._best.loss
            left = f"those of step {step} (loss {loss:.6g}) are used" if step else "none are left"
            sys.stderr.write(
                f"warning: {self._weights} is missing, damaged or old, and no checkpoint has the weights of step "
                f"{done[0].step}, which had the lowest validation loss {done[0].loss:.6g}; {left}\n"
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
        if not metrics["eval_loss"] < self._best.loss:  # written in this way, NaN is no improvement either
            # Counted from the log, which checkpoints keep: a resumed run stops where an uninterrupted one does.
            since = sum("eval_loss" in entry and entry["step"] > self._best.step for entry in state.log_history)
            control.should_training_stop |= bool(self._patience and since >= self._patience)
            return
        self._best = Evaluation(metrics["eval_loss"], state.global_step)
        if state.is_world_process_zero:
            write_best(self._weights, self._best, model.state_dict())

    def loss(self) -> float:
        """Return the validation loss of the kept weights in nats; infinite before the first evaluation."""
        return self._best.loss

    def save(self, checkpoint: Path) -> None:
        """Do nothing: the best weights are stored beside the checkpoints."""

    def restore(self, model: GPT2Classifier) -> None:
        """Put the best weights into the model."""
        if self._best.step and self._weights.exists():  # only one of several hosts has the file
            model.load_state_dict(load_file(self._weights, device=str(model.device)))


class AveragedWeights(TrainerCallback):
    """Averages the weights after each of the last steps, because the mean generalises better than any of them.

    P. Izmailov and others, "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.

    Args:
        fraction: fraction of all steps, at the end, over which the weights are averaged.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
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
        if model is None or state.global_step <= (1 - self._fraction) * state.max_steps:
            return
        self._steps += 1
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # the mean of a frozen parameter would differ from it by rounding
                continue
            if name in self._sum:
                self._sum[name] += parameter.detach().to("cpu")
            else:
                self._sum[name] = parameter.detach().to("cpu", copy=True)

    def load(self, checkpoint: Path) -> None:
        """Continue from the sum in a checkpoint, if it has one."""
        path = checkpoint / AVERAGE
        if path.exists():
            self._sum = load_file(path)
            self._steps = int(self._sum.pop("steps"))

    def save(self, checkpoint: Path) -> None:
        """Add the sum so far to a checkpoint that is not yet marked as complete."""
        if self._steps:
            save_file(self._sum | {"steps": torch.tensor(self._steps)}, checkpoint / AVERAGE)

    def restore(self, model: GPT2Classifier) -> None:
        """Put the mean into the model."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self._sum:
                    parameter.copy_(self._sum[name] / self._steps)
