"""Several processes that train one model, started by `torchrun`: which one writes, and how they wait for each other.

Without torchrun there is only the main process, and nothing waits.
"""

import datetime
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Value = TypeVar("Value")


def state() -> PartialState:
    """Return the state of this process; the first call joins the others (NCCL on CUDA, else gloo).

    Processes may wait long while one tokenises a corpus. The time-out is therefore very long: if a
    process fails, torchrun ends the others.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(days=2))


def is_main() -> bool:
    """Return whether this process writes files and prints."""
    return bool(state().is_main_process)


def share(value: Value) -> Value:
    """Return the value of the main process in every process."""
    if state().num_processes == 1:
        return value
    values: list[Value] = broadcast_object_list([value])
    return values[0]


def gather(value: Value) -> list[Value]:
    """Return the values of all processes in every process, in the order of their ranks."""
    return [value] if state().num_processes == 1 else list(gather_object([value]))


def leave() -> None:
    """Leave the group when the common work is done, so that the others need not wait for the main process."""
    if state().num_processes > 1:
        state().wait_for_everyone()
        state().destroy_process_group()
