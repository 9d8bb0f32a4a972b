"""The article's checkpoint to an artifact with the head `flatten`, which gives the answers that it gave.

The checkpoint is the state dict of `SimpleGPT2SequenceClassifier`: a `GPT2Model` under `gpt2model.*` and a linear layer
`fc1` over the (T, D) hidden states of a text padded on the left to T tokens. It holds neither labels nor tokenizer.
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

from classifier.artifact import Artifact, Golden, Manifest
from classifier.artifact_writer import check_writable_target, write_artifact
from classifier.encoding import Encoder, TextCleaning
from classifier.flatten import FlattenClassifier, PaddedRows
from classifier.labels import Labels
from classifier.model import load_base_tokenizer
from training.errors import ConfigError
from training.report.card import model_card
from training.report.golden import GOLDEN_TEXTS
from training.report.predict import predict_logits

MEMBER = "model.pth"
"""The checkpoint's name in the article's `model.tar.gz`."""
END_OF_TEXT = "<|endoftext|>"
HEAD_WIDTH = 64
"""Dimensions of one attention head in every published GPT-2."""


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint does not say of itself.

    `labels` in the order of the head's rows; `tokenizer` a Hugging Face name or local directory; `heads` of attention,
    0 for one each 64 dimensions; `padded_rows` the transformers that it was trained with; `lowercase` whether its texts
    were.
    """

    labels: tuple[str, ...]
    tokenizer: str = "gpt2"
    heads: int = 0
    padded_rows: PaddedRows = "transformers-4"
    lowercase: bool = True
    name: str = ""


def convert(checkpoint: Path, output: Path, settings: Conversion, *, overwrite: bool = False) -> Artifact:
    """Write the artifact.

    Args:
        checkpoint: `model.pth`, or a `model.tar.gz` with it.
        output: the artifact's directory.
        settings: what the checkpoint does not say.
        overwrite: replace an artifact that is there.

    Raises:
        ConfigError: not such a checkpoint, or settings that contradict it.
        ClassifierError: tokenizer, labels or output's place are unusable.
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
            f"tokenizer {settings.tokenizer!r} has {tokenizer.get_vocab_size()} tokens, the checkpoint "
            f"{config.vocab_size}; it is not the one it was trained with"
        )
    model = FlattenClassifier(config).float()
    state.setdefault("score.bias", torch.zeros(len(labels)))
    try:
        model.load_state_dict(state)
    except RuntimeError as exc:
        raise ConfigError(f"{checkpoint}: not a GPT-2's weights: {' '.join(str(exc).split())[:300]}") from exc
    broken = sorted(name for name, value in state.items() if not value.isfinite().all())
    if broken:
        raise ConfigError(f"{checkpoint}: weights that are no finite numbers: {', '.join(broken[:5])}")
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
        golden=[
            Golden(text=text, logits=[float(x) for x in row])
            for text, row in zip(GOLDEN_TEXTS, predict_logits(model, encoder, GOLDEN_TEXTS), strict=True)
        ],
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
        # only tensors: a checkpoint from elsewhere must not run code of its own
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except OSError as exc:
        raise ConfigError(f"{checkpoint}: cannot be read: {exc.strerror or exc}") from exc
    except Exception as exc:  # an unpickler raises whatever the bytes lead it to
        # torch's own sentence may advise to load the file without that care
        kind = type(exc).__name__
        raise ConfigError(
            f"{checkpoint}: not a readable PyTorch state dict of tensors alone ({kind}); write it with "
            "torch.save(model.state_dict(), ...)"
        ) from exc
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"{checkpoint}: a state dict is needed (torch.save(model.state_dict(), ...)), not a model")
    return {str(key).removeprefix("module."): value.float() for key, value in state.items()}  # module.: DataParallel's


def _member(archive: Path) -> bytes:
    """The checkpoint in a `model.tar.gz`, at its root or below."""
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and Path(member.name).name == MEMBER:
                file = files.extractfile(member)
                if file is not None:
                    return file.read()
    raise ConfigError(f"{archive}: no {MEMBER} in the archive")


def _rename(checkpoint: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Their names to ours. Buffers of old versions (`attn.bias`, the causal mask) are no weights."""
    names = {"gpt2model": "transformer", "fc1": "score"}
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if first not in names:
            raise ConfigError(f"{checkpoint}: {key} belongs to no SimpleGPT2SequenceClassifier")
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
    """The shape, read off the weights."""
    rows, width = state["score.weight"].shape
    vocab_size, hidden = state["transformer.wte.weight"].shape
    positions = state["transformer.wpe.weight"].shape[0]
    tokens, rest = divmod(width, hidden)
    heads = settings.heads or hidden // HEAD_WIDTH
    if rest or not 1 <= tokens <= positions:
        raise ConfigError(f"{checkpoint}: fc1 reads {width} values, which is no whole number of positions of {hidden}")
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
