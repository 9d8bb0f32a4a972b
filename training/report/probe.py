"""What frozen vectors of a language model know about labels: logistic regressions on them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from classifier.encoding import TextCleaning
from training.data.read import Example, read_examples
from training.errors import ConfigError

BATCH_TOKENS = 8192
FOLDS = 5
C = 0.1
"""Inverse strength of the regularisation, of standardised vectors."""

Vectors = Callable[[Sequence[str]], NDArray[np.float32]]
"""Returns the vectors (B, D) of B texts."""


def last_states(model: GPT2LMHeadModel, tokenizer: Tokenizer, max_tokens: int) -> Vectors:
    """Return a function from texts to the hidden states of their last tokens, cut to the first `max_tokens`."""
    cleaning = TextCleaning()

    @torch.inference_mode()
    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        model.eval()
        cleaned = [cleaning.clean(text) for text in texts]
        rows = [e.ids[:max_tokens] or [0] for e in tokenizer.encode_batch(cleaned, add_special_tokens=False)]
        vectors_bd = np.empty((len(rows), model.config.n_embd), dtype=np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            size = max(1, BATCH_TOKENS // len(rows[order[-1]]))
            batch, order = order[-size:], order[:-size]
            padded_bt = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[i]) for i in batch], batch_first=True)
            hidden_btd = model.transformer(padded_bt.to(model.device), use_cache=False).last_hidden_state
            last_b = torch.tensor([len(rows[i]) - 1 for i in batch], device=model.device)
            vectors_bd[batch] = hidden_btd[torch.arange(len(batch)), last_b].float().cpu().numpy()
        return vectors_bd

    return vectors


def probe(vectors: Vectors, files: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of logistic regressions on vectors, named after the files.

    That of the first file is cross-validated, with a group of rows on one side; for the others, the regression is
    fitted on the whole first file. Rows without a label, or with one that the first file lacks, are left out.

    Raises:
        DataError: a file cannot be read.
        ConfigError: the first file has too few groups, or another has no row with a label of the first.
    """
    if not files:
        return {}
    first, *others = ((Path(file), read_examples(Path(file), skip_unlabelled=True)) for file in files)
    states_bd = vectors([example.text for example in first[1]])
    labels = np.array([example.label for example in first[1]])
    groups = [example.group or f"row {i}" for i, example in enumerate(first[1])]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    try:
        predicted = cross_val_predict(_regression(), states_bd, labels, groups=groups, cv=folds)
    except ValueError as exc:
        raise ConfigError(f"probe {files[0]} cannot be cross-validated: {exc}") from exc
    accuracies = {f"probe_{first[0].stem}": float((predicted == labels).mean())}
    fitted = _regression().fit(states_bd, labels)
    for path, examples in others:
        known: list[Example] = [example for example in examples if example.label in set(labels)]
        if not known:
            raise ConfigError(f"probe {path} has no row with a label of {files[0]}")
        right = fitted.predict(vectors([e.text for e in known])) == np.array([e.label for e in known])
        accuracies[f"probe_{path.stem}"] = float(right.mean())
    return accuracies


def _regression() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
