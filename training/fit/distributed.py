"""Several processes that train one model, as `torchrun` starts them: who writes, and how they wait for each other.

Without torchrun there is one process, which is the main one, and nothing waits.
"""

import datetime
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Value = TypeVar("Value")


def state() -> PartialState:
    """This process's place; joins the others at the first call (NCCL on CUDA, else gloo).

    They may wait long: one of them tokenises a corpus. If one fails, torchrun ends the others, no time-out is needed.
    """
    return PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(days=2))


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return bool(state().is_main_process)


def share(value: Value) -> Value:
    """The main process's value, in every process."""
    if state().num_processes == 1:
        return value
    values: list[Value] = broadcast_object_list([value])
    return values[0]


def gather(value: Value) -> list[Value]:
    """Every process's value, in every process, in the order of their ranks."""
    return [value] if state().num_processes == 1 else list(gather_object([value]))


def leave() -> None:
    """Call where the common work is over: what only the main process does may take longer than the others wait."""
    if state().num_processes > 1:
        state().wait_for_everyone()
        state().destroy_process_group()
