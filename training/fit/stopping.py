"""Stopping on request: from a signal to the checkpoint at the end of a step.

A process on a platform that may stop it installs `on_signal` as a handler. Before training, a request ends the process
at once. During training, all processes agree on a step, write a checkpoint and stop there. After training, a request
has no effect, because little is left to do.
"""

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.fit.distributed import state as process_state


class Stopped(BaseException):
    """The run was stopped on request and can continue from its checkpoints. Handlers of Exception do not catch it."""


class _Request:
    made = False
    deferred = False


def on_signal(*_: object) -> None:
    """Handle a signal that asks the process to stop.

    Raises:
        Stopped: training has not begun.
    """
    _Request.made = True
    if not _Request.deferred:
        raise Stopped


def defer() -> None:
    """Let requests wait for the end of a step from now on."""
    _Request.deferred = True


class StopAtStep(TrainerCallback):
    """Stops all processes after the same step, with a checkpoint from which the run ends as if it had not stopped.

    A checkpoint at the end of an epoch is written after the evaluation of that epoch, because a Trainer that resumes
    from an earlier one would leave the evaluation out.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._requested = False
        self._at_epoch_end = False
        self._group = _gloo_group()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._requested = self._requested or self._any_request()
        by_epoch = args.eval_strategy == "epoch"
        self._at_epoch_end = by_epoch and (float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps)
        if self._at_epoch_end:
            self._save_then = control.should_save
            control.should_save = False
        elif self._requested:
            control.should_save = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.stopped:  # the Trainer would evaluate and save again at the end of the epoch
            control.should_evaluate = control.should_save = False
        elif self._at_epoch_end:
            control.should_save = control.should_save or self._save_then or self._requested

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._requested and state.global_step < state.max_steps and not control.should_training_stop:
            self.stopped = control.should_training_stop = True  # only now, because a checkpoint stores it

    def _any_request(self) -> bool:
        if process_state().num_processes == 1:
            return _Request.made
        flag = torch.tensor(int(_Request.made))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)


def _gloo_group() -> object:
    """Return a group of all processes on the CPU: with a flag on a GPU, each step would wait for the one before."""
    return torch.distributed.new_group(backend="gloo") if process_state().num_processes > 1 else None
