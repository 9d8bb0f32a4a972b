"""Conversion of the article's checkpoint to an artifact with the head `flatten` that gives the same answers.

The checkpoint is the state dict of `SimpleGPT2SequenceClassifier`: a `GPT2Model` under `gpt2model.*` and a linear layer
`fc1` over the (T, D) hidden states of a text left-padded to T tokens. It has neither labels nor tokenizer.
"""

import datetime
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config

from classifier.artifact import Artifact, Manifest
from classifier.artifact_writer import check_writable_target, write_artifact
from classifier.encoding import Encoder, TextCleaning
from classifier.flatten import FlattenClassifier, PaddedRows
from classifier.labels import Labels
from classifier.model import load_base_tokenizer
from training.errors import ConfigError
from training.report.card import model_card
from training.report.golden import golden

MEMBER = "model.pth"
"""Name of the checkpoint in the article's `model.tar.gz`."""
END_OF_TEXT = "<|endoftext|>"
HEAD_WIDTH = 64
"""Width of one attention head in every published GPT-2."""


@dataclass(frozen=True)
class Conversion:
    """The facts about a checkpoint that it does not contain itself."""

    labels: tuple[str, ...]
    """Labels in the order of the head's rows."""
    tokenizer: str = "gpt2"
    """A Hugging Face name or a local directory."""
    heads: int = 0
    """Number of attention heads; 0: one per 64 dimensions."""
    padded_rows: PaddedRows = "transformers-4"
    """Version of transformers that trained it."""
    lowercase: bool = True
    """True if its training texts were lower-cased."""
    name: str = ""
    """Name of the model; default: the name of the output directory."""


def convert(checkpoint: Path, output: Path, settings: Conversion, *, overwrite: bool = False) -> Artifact:
    """Write the artifact of a checkpoint.

    Args:
        checkpoint: `model.pth`, or a `model.tar.gz` that contains it.
        output: directory of the artifact.
        settings: facts that the checkpoint does not contain.
        overwrite: replace an existing artifact.

    Raises:
        ConfigError: the file is not such a checkpoint, or the settings contradict it.
        ClassifierError: the tokenizer, the labels or the output directory are unusable.
    """
    check_writable_target(output, overwrite=overwrite)
    state = _rename(checkpoint, _read(checkpoint))
    labels = Labels(settings.labels)
    tokenizer = load_base_tokenizer(settings.tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise ConfigError(f"tokenizer {settings.tokenizer!r} has no {END_OF_TEXT}, with which the article's code pads")
    config = _config(checkpoint, state, settings, labels, end)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ConfigError(
            f"tokenizer {settings.tokenizer!r} has {tokenizer.get_vocab_size()} tokens, but the checkpoint has "
            f"{config.vocab_size}; it was trained with another tokenizer"
        )
    model = FlattenClassifier(config).float()
    state.setdefault("score.bias", torch.zeros(len(labels)))
    try:
        model.load_state_dict(state)
    except RuntimeError as exc:
        raise ConfigError(f"{checkpoint}: not a GPT-2's weights: {' '.join(str(exc).split())[:300]}") from exc
    broken = sorted(name for name, value in state.items() if not value.isfinite().all())
    if broken:
        raise ConfigError(f"{checkpoint}: weights that are not finite numbers: {', '.join(broken[:5])}")
    cleaning = TextCleaning(unicode_form="none", lowercase=settings.lowercase, collapse_whitespace=False)
    tokens: int = config.flatten_tokens
    encoder = Encoder(tokenizer, cleaning, tokens, tokens, "truncate")
    manifest = Manifest(
        name=settings.name or output.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        labels=list(labels.names),
        head="flatten",
        max_tokens=tokens,
        window_stride=tokens,
        on_long="truncate",
        cleaning=cleaning,
        golden=golden(model, encoder),
        provenance={
            "converted_from": checkpoint.name,
            "padded_rows": settings.padded_rows,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )
    return write_artifact(
        output, model=model, tokenizer=tokenizer, manifest=manifest, card=model_card(manifest), overwrite=overwrite
    )


def _read(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        raw = _member(checkpoint) if tarfile.is_tarfile(checkpoint) else checkpoint.read_bytes()
        # Only tensors are loaded, because a checkpoint from elsewhere must not run code.
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except OSError as exc:
        raise ConfigError(f"{checkpoint}: cannot be read: {exc.strerror or exc}") from exc
    except Exception as exc:  # an unpickler may raise anything, and torch's message may advise to load unsafely
        raise ConfigError(
            f"{checkpoint}: not a readable PyTorch state dict of tensors alone ({type(exc).__name__}); write it with "
            "torch.save(model.state_dict(), ...)"
        ) from exc
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{checkpoint}: a state dict is needed (torch.save(model.state_dict(), ...)), not a model")
    return {str(key).removeprefix("module."): value.float() for key, value in state.items()}  # DataParallel adds it


def _member(archive: Path) -> bytes:
    """Return the checkpoint from a `model.tar.gz`, where it may be in any directory."""
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and Path(member.name).name == MEMBER:
                file = files.extractfile(member)
                if file is not None:
                    return file.read()
    raise ConfigError(f"{archive}: no {MEMBER} in the archive")


def _rename(checkpoint: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the article's weights to ours, without the buffers of old versions (`attn.bias`, the causal mask)."""
    names = {"gpt2model": "transformer", "fc1": "score"}
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if first not in names:
            raise ConfigError(f"{checkpoint}: {key} is not part of a SimpleGPT2SequenceClassifier")
        if not rest.endswith((".attn.bias", ".attn.masked_bias")):
            renamed[f"{names[first]}.{rest}"] = value
    for needed, theirs in (
        ("score.weight", "fc1.weight"),
        ("transformer.wte.weight", "gpt2model.wte.weight"),
        ("transformer.wpe.weight", "gpt2model.wpe.weight"),
        ("transformer.h.0.mlp.c_fc.weight", "gpt2model.h.0.mlp.c_fc.weight"),
    ):
        if needed not in renamed or renamed[needed].ndim != 2 or not renamed[needed].numel():
            raise ConfigError(f"{checkpoint}: no {theirs} of two dimensions")
    return renamed


def _config(
    checkpoint: Path, state: Mapping[str, torch.Tensor], settings: Conversion, labels: Labels, end: int
) -> GPT2Config:
    """Return the configuration that follows from the shapes of the weights."""
    rows, width = state["score.weight"].shape
    vocab_size, hidden = state["transformer.wte.weight"].shape
    positions = state["transformer.wpe.weight"].shape[0]
    tokens, rest = divmod(width, hidden)
    heads = settings.heads or hidden // HEAD_WIDTH
    if rest or not 1 <= tokens <= positions:
        raise ConfigError(f"{checkpoint}: fc1 reads {width} values, not a whole number of positions of {hidden}")
    if rows != len(labels):
        raise ConfigError(f"{checkpoint}: fc1 has {rows} rows, {len(labels)} labels were given: {list(labels.names)}")
    if heads < 1 or hidden % heads:
        raise ConfigError(f"{checkpoint}: width {hidden} and {heads} attention heads do not fit; pass --heads")
    extra: dict[str, Any] = {"flatten_tokens": tokens, "padded_rows": settings.padded_rows}
    blocks = {key.split(".")[2] for key in state if key.startswith("transformer.h.")}
    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=positions,
        n_embd=hidden,
        n_layer=len(blocks),
        n_head=heads,
        n_inner=state["transformer.h.0.mlp.c_fc.weight"].shape[1],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        id2label=labels.id2label,
        label2id=dict(labels.label2id),
        problem_type="single_label_classification",
        **extra,
    )
