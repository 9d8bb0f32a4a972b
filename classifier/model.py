"""The reference forward: GPT-2 with a linear head on the last token. Every faster forward must equal it.

The class keeps transformers' parameter names (`transformer.*`, `score.weight`), so that its weights load as
`GPT2ForSequenceClassification`. It differs from that class in two points: positions come from the mask, not from the
column, and the last token is found by the mask, not by its id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import AutoConfig, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as transformers_logging

from classifier.encoding import Batch, pad
from classifier.errors import ModelError
from classifier.labels import Labels

# Progress bars and reports of expected keys are noise in every log.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

CLASSIFIER_HEADS = ("score.", "classifier.")
"""Beginnings of the names of weights that only a classifier has, of texts or of tokens."""


class GPT2Classifier(GPT2ForSequenceClassification):
    """GPT-2 and a linear head without bias on the last real token of each text."""

    base_was_classifier = False
    """True if the base model had a classification head, which `load_base` replaced."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        every_token: bool = False,
    ) -> SequenceClassifierOutput:
        """Return the logits of the last real token of each row.

        Args:
            input_ids: (B, T) int64, padded on either side.
            attention_mask: (B, T), 1 on real tokens; at least one in each row.
            position_ids: (B, T) int64; counted from the mask if not given.
            labels: (B,) int64 label ids; adds the mean cross-entropy in nats of the last tokens as `loss`.
            every_token: return logits after every token instead, which training uses.

        Returns:
            `logits` (B, C) in the weights' dtype; (B, T, C) if `every_token`, meaningless where the mask is 0.
        """
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        hidden_btd = self.transformer(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        if every_token:
            return SequenceClassifierOutput(logits=self.score(hidden_btd))
        last_b = last_tokens(attention_mask)
        rows = torch.arange(len(last_b), device=last_b.device)
        logits_bc = self.score(hidden_btd[rows, last_b])
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits_bc.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_bc)


def last_tokens(attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the column of the last real token of each row: (B, T) mask to (B,) int64."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.long() * columns).argmax(-1)


def infer(model: GPT2Classifier, batch: Batch) -> torch.Tensor:
    """Return the reference logits of a padded batch: (B, C), float32, on the CPU, without gradients."""
    device = model.device
    with torch.inference_mode():
        output = model(
            torch.from_numpy(batch.ids_bt).to(device),
            torch.from_numpy(batch.mask_bt).to(device),
            torch.from_numpy(batch.positions_bt).to(device),
        )
    logits: torch.Tensor = output.logits.float().cpu()
    return logits


def infer_sequences(model: GPT2Classifier, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the reference logits (B, C), float32, of B sequences of token ids, run as one left-padded batch."""
    return infer(model, pad(sequences, model.config.pad_token_id, "left"))


def load_base(
    base_model: str,
    labels: Labels,
    *,
    random_weights: bool = False,
    allow_classifier: bool = False,
    kind: type[GPT2Classifier] = GPT2Classifier,
    extra_config: Mapping[str, Any] | None = None,
) -> GPT2Classifier:
    """Return a float32 classifier on a pre-trained GPT-2, with a new head initialised from torch's generator.

    Args:
        base_model: a Hugging Face name (`gpt2`, `distilgpt2`) or a local directory with `config.json`, weights in
            safetensors and `tokenizer.json`.
        labels: the labels, which become the configuration's `id2label`.
        random_weights: use only the configuration of the base model, for tests and measurements of speed.
        allow_classifier: accept a base that is a classifier already. Its head is replaced, but its other weights
            may have been trained on texts that are now held out.
        kind: the class of the head.
        extra_config: more fields of the configuration, for that class.

    Raises:
        ModelError: there is no such model, it is not a GPT-2, weights other than the head's are missing or of another
            shape, or it is a classifier.
    """
    config = _base_config(base_model)
    config.id2label, config.label2id = labels.id2label, dict(labels.label2id)
    config.update(extra_config or {})
    config.problem_type = "single_label_classification"
    if config.pad_token_id is None:  # the mask hides this id, but transformers' own class needs one
        config.pad_token_id = 0 if config.eos_token_id is None else config.eos_token_id
    if not 0 <= config.pad_token_id < config.vocab_size:
        raise ModelError(
            f"base model {base_model!r}: pad_token_id {config.pad_token_id} is outside the vocabulary of "
            f"{config.vocab_size}"
        )
    if random_weights:
        fresh: GPT2Classifier = kind(config).float()
        return fresh
    model: GPT2Classifier
    try:
        model, report = kind.from_pretrained(
            base_model,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a head of other labels; other weights are checked below
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"base model {base_model!r}: its weights cannot be loaded: {_first_line(exc)}") from exc
    # Everything except the head must come from the base, because a random layer would make a bad model.
    head = {"score.weight", "score.bias"}
    other_shape = {key for key, *_ in report["mismatched_keys"]}
    for problem, keys in (("weights missing", set(report["missing_keys"])), ("weights of another shape", other_shape)):
        if names := sorted(keys - head):
            raise ModelError(f"base model {base_model!r}: {problem}: {', '.join(names[:5])} ({len(names)} in all)")
    others = any(key.startswith(CLASSIFIER_HEADS) for key in report["unexpected_keys"])
    model.base_was_classifier = others or "score.weight" not in report["missing_keys"]
    if model.base_was_classifier:
        if not allow_classifier:
            raise ModelError(
                f"base model {base_model!r} is a classifier already, and may have been trained on texts that are now "
                "held out for the test, so that its figures would be too good; give the model that it was fine-tuned "
                "from, or use it in spite of that with --allow-classifier-base"
            )
        torch.nn.init.normal_(model.score.weight, std=config.initializer_range)
        if model.score.bias is not None:
            torch.nn.init.zeros_(model.score.bias)
    return model


def load_base_tokenizer(base_model: str) -> Tokenizer:
    """Return the byte-level tokenizer of a base model.

    Raises:
        ModelError: there is none, or its vocabulary is empty.
    """
    vocab, merges = (Path(base_model) / name for name in ("vocab.json", "merges.txt"))
    try:
        if vocab.is_file() and merges.is_file() and not (Path(base_model) / "tokenizer.json").exists():
            # transformers 5 builds an empty tokenizer from these two files without any warning
            tokenizer = Tokenizer.from_str(ByteLevelBPETokenizer(str(vocab), str(merges)).to_str())
            tokenizer.add_special_tokens(["<|endoftext|>"])
        else:
            tokenizer = AutoTokenizer.from_pretrained(base_model).backend_tokenizer
    except Exception as exc:  # transformers and tokenizers raise errors of many kinds
        raise ModelError(f"base model {base_model!r}: its tokenizer cannot be loaded: {_first_line(exc)}") from exc
    if tokenizer.get_vocab_size(with_added_tokens=False) < 2:
        raise ModelError(f"base model {base_model!r}: its tokenizer has an empty vocabulary")
    return tokenizer


def load_weights(
    directory: Path, dtype: torch.dtype = torch.float32, kind: type[GPT2Classifier] = GPT2Classifier
) -> GPT2Classifier:
    """Load the classifier of an artifact for inference.

    Args:
        directory: holds `config.json` and `model.safetensors`.
        dtype: the dtype of the weights in memory.
        kind: the class of the head.

    Raises:
        ModelError: a file is missing or unreadable, or the weights do not fit the configuration.
    """
    model: GPT2Classifier
    try:
        model, report = kind.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"{directory}: the weights cannot be loaded: {_first_line(exc)}") from exc
    wrong = [*report["missing_keys"], *report["unexpected_keys"], *map(str, report["mismatched_keys"])]
    if wrong:
        raise ModelError(f"{directory}: weights do not fit config.json: {', '.join(sorted(wrong)[:5])}")
    model.eval()
    return model


def _base_config(base_model: str) -> GPT2Config:
    try:
        config = AutoConfig.from_pretrained(base_model)
    except (OSError, ValueError) as exc:
        raise ModelError(
            f"base model {base_model!r}: neither a local directory with a config.json nor a model that the hub "
            f"can give ({_first_line(exc)}); --base-model takes a local directory, and `pretrain` makes one"
        ) from exc
    if not isinstance(config, GPT2Config):
        raise ModelError(f"base model {base_model!r} is a {config.model_type!r} model; a GPT-2 is needed")
    return config


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n", 1)[0]
