"""The training loop of fine-tuning and pre-training: transformers' Trainer with an order of rows that a resumed run
repeats, checkpoints that are marked when they are complete, and plain log lines.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.config import PretrainConfig, TrainConfig
from training.fit.batches import Epoch
from training.fit.checkpoints import complete_steps, latest_complete, mark_complete
from training.fit.distributed import gather, is_main, state
from training.fit.stopping import StopAtStep, Stopped, defer
from training.fit.weights import AveragedWeights, BestWeights


def arguments(config: TrainConfig | PretrainConfig, directory: Path, **more: Any) -> TrainingArguments:
    """Return the arguments of the Trainer; `more` are those that only one of the loops needs."""
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
        use_cpu=not torch.cuda.is_available(),  # otherwise the processes of torchrun do not find each other
        ddp_find_unused_parameters=False,
        **more,
    )


def use_bfloat16(precision: str) -> bool:
    """Return whether matrix products run in bfloat16 under autocast; the weights are float32 in both cases.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 if the hardware has instructions for it.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def setting_of_machine(precision: str) -> dict[str, Any]:
    """Return the facts besides the settings on which the weights depend: actual precision and number of processes."""
    return {"precision": "bfloat16" if use_bfloat16(precision) else "float32", "processes": state().num_processes}


def weights_sha256(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's weights, which tells apart base models of the same name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class OrderedTrainer(Trainer):
    """A Trainer that takes the order of rows from this project's sampler and marks complete checkpoints.

    Args:
        order: order of rows that depends only on seed and epoch, so that a resumed run sees the same rows.
        epoch: its number is set when an epoch begins.
        stored: weights that are stored with each checkpoint, in addition to the Trainer's own files.
    """

    def __init__(
        self,
        order: Sampler[int],
        epoch: Epoch,
        *,
        stored: BestWeights | AveragedWeights | None = None,
        **keywords: Any,
    ) -> None:
        self._order = order
        self._stored = stored
        super().__init__(callbacks=[stored] if stored else None, **keywords)
        self.add_callback(_CountEpochs(epoch))
        self.add_callback(_CountSeconds())
        self._stop = StopAtStep()
        self.add_callback(self._stop)
        if not sys.stderr.isatty():
            self.remove_callback(PrinterCallback)
            self.add_callback(LogLines())

    def train_on(self, directory: Path) -> list[dict[str, float]]:
        """Train from the newest complete checkpoint in `directory`, if there is one, and return the log.

        Evaluations during training run in the precision of training, because they only compare one step with another.
        Afterwards the model computes in float32 again, as it will be stored and served.

        Raises:
            Stopped: the run was stopped on request, after a checkpoint.
        """
        defer()
        if state().is_local_main_process:
            latest_complete(directory)  # one process removes incomplete checkpoints, before any other looks
        state().wait_for_everyone()
        # Hosts may have separate directories: take the newest checkpoint that all of them have.
        steps = set.intersection(*map(set, gather(complete_steps(directory))))
        newest = directory / f"checkpoint-{max(steps)}" if steps else None
        if newest and self._stored is not None:
            self._stored.load(newest)
        if newest and _is_over(newest):  # the Trainer would take one more step
            self._load_from_checkpoint(str(newest))
            self.state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        else:
            self.train(resume_from_checkpoint=str(newest) if newest else None)
        # Otherwise accelerate's autocast would stay around the model's forward.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self._stop.stopped:
            raise Stopped
        return list(self.state.log_history)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        state().wait_for_everyone()  # every process writes the state of its generator
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self._stored is not None:
                self._stored.save(checkpoint)
            mark_complete(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        """Let the main process store the state of every process, because other hosts may have other directories."""
        super()._save_rng_state(output_dir)
        own = Path(output_dir) / f"rng_state_{state().process_index}.pth"
        if state().num_processes > 1:
            for name, content in gather((own.name, own.read_bytes())):
                if is_main() and not (own.parent / name).exists():
                    (own.parent / name).write_bytes(content)


def _is_over(checkpoint: Path) -> bool:
    """Return whether a checkpoint is that of the last step, or of the evaluation at which patience ended the run."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(state["global_step"] >= state["max_steps"] or control["should_training_stop"])


NAMES = {"loss": "train_loss", "train_loss": "mean_train_loss"}
"""Names in log lines for values of the Trainer. Its `train_loss` is the mean over the whole run."""


class LogLines(TrainerCallback):
    """Prints progress as `key=value;` lines, which log collectors parse, if the output is not a terminal."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if state.is_world_process_zero and given["logs"]:
            sys.stdout.write(f"step={state.global_step}/{state.max_steps}; {' '.join(_fields(given['logs']))}\n")
            sys.stdout.flush()


def _fields(logs: Mapping[str, Any]) -> Iterator[str]:
    for key, value in logs.items():
        if isinstance(value, int | float):
            yield f"{NAMES.get(key, key)}={value:.6g};"


class _CountEpochs(TrainerCallback):
    """Sets the number of the epoch: the whole part of the Trainer's count, since a resumed run begins within one."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._epoch.number = int(state.epoch or 0)


class _CountSeconds(TrainerCallback):
    """Adds the seconds of training so far to each entry of the log, which checkpoints keep: a resumed run counts on."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        before = max((entry["seconds"] for entry in state.log_history if "seconds" in entry), default=0.0)
        self._began = time.monotonic() - before

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.log_history[-1]["seconds"] = time.monotonic() - self._began
