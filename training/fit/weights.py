"""The weights that a run ends with: those of its best evaluation, or the mean over its last steps."""

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classifier.model import GPT2Classifier
from training.fit.checkpoints import is_complete
from training.fit.distributed import is_main, share

AVERAGE = "average.safetensors"
WEIGHTS = "model.safetensors"
"""Name of the weights in a checkpoint of the Trainer."""


class Evaluation(NamedTuple):
    """Validation loss in nats, and the step after which it was measured."""

    loss: float = math.inf
    step: int = 0


class BestWeights(TrainerCallback):
    """Keeps the checkpoint of the evaluation with the lowest loss, and stops a run that no longer improves.

    The Trainer's own `load_best_model_at_end` saves only where it also evaluates, and looks for the best checkpoint at
    the absolute path that it had when it was written.

    Args:
        directory: directory of checkpoints.
        patience: number of evaluations without improvement after which training stops; 0: never.
    """

    def __init__(self, directory: Path, patience: int = 0) -> None:
        self._directory, self._patience = directory, patience
        self.best = Evaluation()

    def _checkpoint(self, step: int) -> Path:
        return self._directory / f"checkpoint-{step}"

    def load(self, checkpoint: Path) -> None:
        """Find the best evaluation before the checkpoint; called in every process.

        A platform that copies files during training may have been stopped before it copied the best checkpoint. The
        best of those that are left counts then, and a warning says so.
        """
        self.best = share(self._best_left(checkpoint) if is_main() else None) or Evaluation()

    def _best_left(self, checkpoint: Path) -> Evaluation:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        log = [entry for entry in state["log_history"] if "eval_loss" in entry]
        done = sorted(Evaluation(entry["eval_loss"], entry["step"]) for entry in log)
        best = next((evaluation for evaluation in done if is_complete(self._checkpoint(evaluation.step))), Evaluation())
        if done and done[0].loss < best.loss:
            left = f"those of step {best.step} (loss {best.loss:.6g}) are used" if best.step else "none are left"
            sys.stderr.write(
                f"warning: {self._checkpoint(done[0].step)} is missing or incomplete, so that the weights with the "
                f"lowest validation loss, {done[0].loss:.6g}, are lost; {left}\n"
            )
        return best

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._protect(state)

    def _protect(self, state: TrainerState) -> None:
        """Let the Trainer keep the best checkpoint when it removes old ones."""
        state.best_model_checkpoint = str(self._checkpoint(self.best.step)) if self.best.step else None

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        loss = given["metrics"]["eval_loss"]
        if loss < self.best.loss:
            self.best = Evaluation(loss, state.global_step)  # a checkpoint precedes each evaluation
            self._protect(state)
        else:
            # Counted from the log, which checkpoints keep: a resumed run stops where an uninterrupted one does.
            since = sum("eval_loss" in entry and entry["step"] > self.best.step for entry in state.log_history)
            control.should_training_stop |= bool(self._patience and since >= self._patience)

    def save(self, checkpoint: Path) -> None:
        """Do nothing: the weights are part of the checkpoint."""

    def restore(self, model: GPT2Classifier) -> None:
        """Put the best weights into the model."""
        path = self._checkpoint(self.best.step) / WEIGHTS
        if path.exists():  # only one of several hosts has the file
            model.load_state_dict(load_file(path, device=str(model.device)))


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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        device = given["model"].device
        self._sum = {name: tensor.to(device) for name, tensor in self._sum.items()}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Add the weights to the sum, which is kept beside them and in the main process only."""
        if not is_main() or state.global_step <= (1 - self._fraction) * state.max_steps:
            return
        self._steps += 1
        # without the frozen ones, whose mean would differ from them by rounding
        weights = {name: p for name, p in given["model"].named_parameters() if p.requires_grad}
        for name, parameter in weights.items():
            if name in self._sum:
                self._sum[name] += parameter
            else:
                self._sum[name] = parameter.clone()

    def load(self, checkpoint: Path) -> None:
        """Continue from the sum in a checkpoint, if it has one."""
        path = checkpoint / AVERAGE
        if is_main() and path.exists():
            self._sum = load_file(path)
            self._steps = int(self._sum.pop("steps"))

    def save(self, checkpoint: Path) -> None:
        """Add the sum so far to a checkpoint that is not yet marked as complete."""
        if self._steps:
            save_file(self._sum | {"steps": torch.tensor(self._steps)}, checkpoint / AVERAGE)

    def restore(self, model: GPT2Classifier) -> None:
        """Put the mean into the model of the main process."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self._sum:
                    parameter.copy_(self._sum[name] / self._steps)
