"""The training loop of fine-tuning, pre-training and distillation: transformers' Trainer with batches that a resumed
run repeats, checkpoints that are marked when they are complete, an evaluation that stops on request, and plain log
lines.
"""

import hashlib
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classifier.errors import first_line
from training.config import BaseConfig, TrainConfig
from training.errors import CheckpointError, DivergedError
from training.fit.batches import Epoch
from training.fit.checkpoints import complete_steps, latest_complete, mark_complete
from training.fit.distributed import gather, is_main, state
from training.fit.stopping import StopAtStep, Stopped, defer
from training.fit.weights import AveragedWeights, BestWeights


def arguments(config: TrainConfig | BaseConfig, directory: Path, **more: Any) -> TrainingArguments:
    """Return the arguments of the Trainer; `more` are those that only one of the loops needs."""
    made = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=training_precision(config) == "bfloat16",
        save_total_limit=2,
        logging_steps=10,
        logging_nan_inf_filter=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        label_names=["labels"],
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),  # otherwise the processes of torchrun do not find each other
        ddp_find_unused_parameters=False,
        **more,
    )
    devices = made.n_gpu
    if devices > 1:
        # With several, the Trainer wraps the model in DataParallel, which trains by another batch and without autocast.
        made._n_gpu = 1
        sys.stderr.write(
            f"warning: one of {devices} GPUs is used; to use all, start the same command with `torchrun "
            f"--nproc-per-node {devices} -m training` in place of `python -m training`\n"
        )
    return made


def training_precision(config: TrainConfig | BaseConfig) -> Literal["float32", "bfloat16"]:
    """Return the precision of matrix products in training; the weights are float32 in both cases.

    "auto" is bfloat16 if the hardware has instructions for it. The head flatten trains in float32, because its mask
    holds float32's smallest number, which is minus infinity in bfloat16, and padding would then be read differently.
    """
    if isinstance(config, TrainConfig) and config.head == "flatten":
        return "float32"
    if config.precision == "auto":
        if torch.cuda.is_available():
            fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
        else:
            has = torch.cpu.get_capabilities()
            fast = bool(has.get("amx_bf16") or has.get("avx512_bf16"))
        return "bfloat16" if fast else "float32"
    return "bfloat16" if config.precision == "bfloat16" else "float32"


def setting_of_machine(config: TrainConfig | BaseConfig) -> dict[str, Any]:
    """Return the facts besides the settings on which the weights depend: actual precision and number of processes."""
    return {"precision": training_precision(config), "processes": state().num_processes}


def weights_sha256(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's weights, which tells apart base models of the same name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class OrderedTrainer(Trainer):
    """A Trainer whose batches, evaluations and checkpoints are this project's.

    A step trains on the same rows whatever the number of processes, and a checkpoint precedes each evaluation. A run
    that resumes from such a checkpoint begins with the evaluation.

    Args:
        batches: batches that depend only on seed and epoch, so that a resumed run sees the same rows.
        epoch: its number is set when an epoch begins.
        eval_lengths: number of tokens of each validation row, (rows,).
        stored: weights that are stored with each checkpoint, in addition to the Trainer's own files.
    """

    control: TrainerControl

    def __init__(
        self,
        batches: Sampler[list[int]],
        epoch: Epoch,
        eval_lengths: np.ndarray[Any, np.dtype[np.int32]],
        *,
        stored: BestWeights | AveragedWeights | None = None,
        **keywords: Any,
    ) -> None:
        self._batches = batches
        self._eval_order = np.argsort(eval_lengths, kind="stable")
        self._stored = stored
        self._saved_step = 0
        super().__init__(callbacks=[_Beginnings(epoch), _CountSeconds(), *([stored] if stored else [])], **keywords)
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
            DivergedError: the loss or the gradients are no longer finite.
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
        self._saved_step = max(steps, default=0)
        self.train(resume_from_checkpoint=str(newest) if newest else None)
        # Otherwise accelerate's autocast would stay around the model's forward.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return list(self.state.log_history)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's share of each batch, which accelerate must not divide again."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            pin_memory=torch.cuda.is_available(),
        )

    def _run_epoch(self, **keywords: Any) -> None:
        if not self.control.should_training_stop:  # the Trainer would take one more step
            super()._run_epoch(**keywords)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Check the norm of the gradients, which all processes share, before the weights are changed by them."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not math.isfinite(norm):
            raise self._diverged(f"the norm of the gradients is {float(norm)}", self.state.global_step + 1)
        return norm

    def _diverged(self, what: str, step: int) -> DivergedError:
        return DivergedError(
            f"training diverged at step {step} of {self.state.max_steps}: {what}. Use a smaller --lr, or --precision "
            "float32. If --checkpoints was given, the checkpoints of earlier steps are kept there; a run with other "
            "settings needs a directory of its own"
        )

    def _evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate, after a checkpoint from which the run goes on if it is stopped or killed in the evaluation."""
        self._save_checkpoint(self.model_wrapped, None)
        return self.evaluate()

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the means of `eval_sums` over all validation rows, however many processes and batches share them.

        Raises:
            Stopped: the process was asked to stop.
            DivergedError: the loss is not finite.
        """
        started = time.monotonic()
        rows: Any = self.eval_dataset
        self.model.eval()
        sums: dict[str, float] = {}
        size = -(-self.args.per_device_train_batch_size // self.args.world_size)
        shares = [self._eval_order[process :: self.args.world_size] for process in range(self.args.world_size)]
        for start in range(0, len(shares[0]), size):
            if self._stop.requested():
                raise Stopped
            chosen = shares[self.args.process_index][start : start + size]
            if len(chosen):  # the share of another process may be longer
                batch = self._prepare_inputs(self.data_collator([rows[i] for i in chosen.tolist()]))
                for name, value in self.eval_sums(self.model, batch).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        parts = gather(sums)
        metrics = {f"eval_{name}": sum(part.get(name, 0.0) for part in parts) / len(rows) for name in parts[0]}
        if not math.isfinite(metrics["eval_loss"]):
            raise self._diverged(f"the validation loss is {metrics['eval_loss']}", self.state.global_step)
        metrics["eval_runtime"] = time.monotonic() - started
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def eval_sums(self, model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the sum of the `loss` in nats over the rows of a batch, and of any further figures."""
        return {"loss": model(**inputs).loss * len(inputs["labels"])}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._saved_step == self.state.global_step:
            return
        with _told_of_failure(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)
        state().wait_for_everyone()  # every process writes the state of its generator
        if self.args.should_save:
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            with _told_of_failure(Path(self.args.output_dir)):
                if self._stored is not None:
                    self._stored.save(checkpoint)
                mark_complete(checkpoint)
        self._saved_step = self.state.global_step

    def _save_rng_state(self, output_dir: str) -> None:
        """Let the main process store the state of every process, because other hosts may have other directories."""
        super()._save_rng_state(output_dir)
        own = Path(output_dir) / f"rng_state_{state().process_index}.pth"
        if state().num_processes > 1:
            for name, content in gather((own.name, own.read_bytes())):
                if is_main() and not (own.parent / name).exists():
                    (own.parent / name).write_bytes(content)


@contextmanager
def _told_of_failure(directory: Path) -> Iterator[None]:
    """Turn every error of writing into a `CheckpointError`. On a full disk, libraries raise errors of all kinds."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as exc:
        free = shutil.disk_usage(directory).free >> 20
        raise CheckpointError(
            f"{directory}: a checkpoint cannot be written ({first_line(exc)}); {free} MiB are free there. Earlier "
            "checkpoints are kept: free some space, then the same command goes on"
        ) from exc


NAMES = {"loss": "train_loss"}
"""Names in log lines for values of the Trainer."""
UNSAID = frozenset({"train_loss"})
"""Values of the Trainer that are not printed: this one is the mean since the last resumption, not that of the run."""


class LogLines(TrainerCallback):
    """Prints progress as `key=value;` lines, which log collectors parse, if the output is not a terminal."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if state.is_world_process_zero and given["logs"]:
            sys.stdout.write(f"step={state.global_step}/{state.max_steps}; {' '.join(_fields(given['logs']))}\n")
            sys.stdout.flush()


def _fields(logs: Mapping[str, Any]) -> Iterator[str]:
    for key, value in logs.items():
        if isinstance(value, int | float) and key not in UNSAID:
            yield f"{NAMES.get(key, key)}={value:.6g};"


class _Beginnings(TrainerCallback):
    """Sets what a run must know when it begins or resumes, and the number of each epoch."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Let a run that resumes at the end of an epoch begin with the evaluation, and end if it was the last step."""
        over = state.global_step > 0 and state.global_step >= state.max_steps
        by_epoch = args.eval_strategy == "epoch"
        due = float(state.epoch or 0).is_integer() if by_epoch else state.global_step % state.eval_steps == 0
        args.eval_on_start = state.global_step > 0 and (due or over)
        control.should_training_stop = over

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._epoch.number = int(state.epoch or 0)  # the whole part, since a resumed run begins within an epoch


class _CountSeconds(TrainerCallback):
    """Adds the seconds of training so far to each entry of the log, which checkpoints keep: a resumed run counts on.

    Time between the last entry and the checkpoint of a stopped run is not counted.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        before = max((entry["seconds"] for entry in state.log_history if "seconds" in entry), default=0.0)
        self._began = time.monotonic() - before

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.log_history[-1]["seconds"] = time.monotonic() - self._began
