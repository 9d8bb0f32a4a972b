"""What every training loop shares: the Trainer with our order of rows, complete checkpoints and plain logs."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.fit.batches import Epoch
from training.fit.checkpoints import complete_steps, latest_complete, mark_complete, tensors_sha256
from training.fit.distributed import gather, is_main, state
from training.fit.stopping import StopAtStep, Stopped, defer


class LoopConfig(Protocol):
    """Settings that every loop has; see `training.config` for their meaning."""

    @property
    def batch_size(self) -> int: ...
    @property
    def gradient_accumulation(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def precision(self) -> str: ...
    @property
    def seed(self) -> int: ...


def arguments(config: LoopConfig, directory: Path, **more: Any) -> TrainingArguments:
    """The Trainer's arguments, those of one loop alone in `more`."""
    return TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=use_bfloat16(config.precision),
        save_total_limit=2,
        logging_steps=10,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),  # else the processes of torchrun do not find each other
        ddp_find_unused_parameters=False,
        **more,
    )


def use_bfloat16(precision: str) -> bool:
    """Whether matrix products run in bfloat16 under autocast; the weights that learn are float32 either way.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware has instructions for it.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def setting_of_machine(precision: str) -> dict[str, Any]:
    """What a run's weights depend on that no setting says: the precision that "auto" found, and how many processes."""
    return {"precision": "bfloat16" if use_bfloat16(precision) else "float32", "processes": state().num_processes}


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of a model's weights before training: a base of the same name may be another one."""
    return tensors_sha256(model.state_dict().items())


class OrderedTrainer(Trainer):
    """Trainer that takes its order of rows from a sampler of ours and marks checkpoints that are whole.

    Args:
        order: depends on seed and epoch alone, so that a resumed run sees the rows that an uninterrupted one sees.
        epoch: told the number of each pass when it begins.
    """

    def __init__(self, order: Sampler[int], epoch: Epoch, **keywords: Any) -> None:
        self._order = order
        super().__init__(**keywords)
        self.add_callback(_CountEpochs(epoch))
        self._stop = StopAtStep()
        self.add_callback(self._stop)
        if not sys.stderr.isatty():
            self.remove_callback(PrinterCallback)
            self.add_callback(LogLines())

    def train_on(self, directory: Path) -> list[dict[str, float]]:
        """Train, from the newest complete checkpoint in `directory` if there is one, and return the log.

        Evaluations during training run in the precision of training: they only compare one step with another.
        Afterwards the model computes in float32 again, as it will be stored and served.

        Raises:
            Stopped: on request, with a checkpoint written.
        """
        defer()
        if state().is_local_main_process:
            latest_complete(directory)  # removes incomplete ones: by one process, before any other looks
        state().wait_for_everyone()
        # hosts may have directories of their own: the newest that all of them have
        steps = set.intersection(*map(set, gather(complete_steps(directory))))
        newest = directory / f"checkpoint-{max(steps)}" if steps else None
        if newest:
            self.load_more(newest)
        if newest and _is_over(newest):  # else the Trainer would take one step more
            self._load_from_checkpoint(str(newest))
            self.state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        else:
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        # Else accelerate's autocast stays around the model's forward, and measures what nobody serves.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self._stop.stopped:
            raise Stopped
        return list(self.state.log_history)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        state().wait_for_everyone()  # every process writes its generator's state
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.save_more(checkpoint)
            mark_complete(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process's, by the main one: another host's directory may be another."""
        super()._save_rng_state(output_dir)
        own = Path(output_dir) / f"rng_state_{state().process_index}.pth"
        if state().num_processes > 1:
            for name, content in gather((own.name, own.read_bytes())):
                if is_main() and not (own.parent / name).exists():
                    (own.parent / name).write_bytes(content)

    def save_more(self, checkpoint: Path) -> None:
        """What a loop adds to its checkpoints; called in the main process, before the checkpoint counts as complete."""

    def load_more(self, checkpoint: Path) -> None:
        """Take up what `save_more` wrote; called in every process."""


def _is_over(checkpoint: Path) -> bool:
    """Whether the checkpoint is that of a run's last step, or of the evaluation at which patience ended it."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(state["global_step"] >= state["max_steps"] or control["should_training_stop"])


NAMES = {"loss": "train_loss", "train_loss": "mean_train_loss"}
"""What log lines call the Trainer's figures: its `train_loss` is the mean over the run, reported once at the end."""


class LogLines(TrainerCallback):
    """Progress as plain `key=value;` lines, for places that are no terminal; log collectors parse them."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            sys.stdout.write(f"step={state.global_step}/{state.max_steps}; {' '.join(_fields(logs))}\n")
            sys.stdout.flush()


def _fields(logs: Mapping[str, Any]) -> Iterator[str]:
    for key, value in logs.items():
        if isinstance(value, int | float):
            yield f"{NAMES.get(key, key)}={value:.6g};"


class _CountEpochs(TrainerCallback):
    """A resumed run begins within an epoch: its number is the whole part of the Trainer's count."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._epoch.number = int(state.epoch or 0)
