"""Stopping on request: from a signal to the checkpoint from which the run goes on.

A process on a platform that may stop it installs `on_signal` as a handler. Before training, a request ends the process
at once. During training, all processes agree on a step, write a checkpoint and stop there; during an evaluation they
stop at once, because a checkpoint precedes it. After training, a request has no effect: the last checkpoint holds the
trained weights, so that a process that is killed then only has to measure again.
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
    """Stops all processes after the same step, with a checkpoint from which the run ends as if it had not stopped."""

    def __init__(self) -> None:
        self._requested = False
        self._group = _gloo_group()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self.requested():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._requested:
            raise Stopped

    def requested(self) -> bool:
        """Return whether any process was asked to stop; all processes call this together and get the same answer."""
        if process_state().num_processes == 1:
            self._requested = _Request.made
        else:
            flag = torch.tensor(int(_Request.made))
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
            self._requested = bool(flag)
        return self._requested


def _gloo_group() -> object:
    """Return a group of all processes on the CPU: with a flag on a GPU, each step would wait for the one before."""
    return torch.distributed.new_group(backend="gloo") if process_state().num_processes > 1 else None
