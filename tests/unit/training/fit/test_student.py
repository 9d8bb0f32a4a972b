from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from training.data.taught import collate
from training.fit.student import SIMILARITIES, Student


@pytest.fixture
def student() -> Student:
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    config.teacher_width = 6
    torch.manual_seed(3)
    made: Student = Student(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(6.0)
    return made


def row(ids: list[int], cuts: list[int]) -> dict[str, Any]:
    vectors = np.random.default_rng(len(ids)).normal(size=(len(cuts), 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {"input_ids": np.array(ids), "cuts": np.array(cuts), "vectors": vectors.astype(np.float16)}


ROWS = [row([5, 6, 7, 8, 9, 10, 11, 12], [2, 4, 8]), row([20, 21, 22], [3]), row([5, 6, 40], [2, 3])]


def test_loss_is_cosine_and_similarities(student: Student) -> None:
    batch = collate(ROWS)
    with torch.inference_mode():
        output = student(**batch)
        alone = [torch.from_numpy(r["input_ids"][None, :cut]) for r in ROWS for cut in r["cuts"]]
        states = [student.projection(student.transformer(ids).last_hidden_state[0, -1]) for ids in alone]
    ours = torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy().astype(np.float64)
    theirs = np.concatenate([r["vectors"] for r in ROWS]).astype(np.float64)
    cosines = (ours * theirs).sum(1)
    # each beginning alone: neither the tokens after it nor the padding of the batch change anything
    np.testing.assert_allclose(output.cosine.numpy(), cosines, atol=1e-5)
    expected = 1 - cosines.mean() + SIMILARITIES * ((ours @ ours.T - theirs @ theirs.T) ** 2).mean()
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)


def test_language_model_counts_real_tokens_only(student: Student) -> None:
    batch = collate(ROWS)
    without = student(**batch).loss.item()
    student.language_model_weight = 0.5
    losses = []
    for each in ROWS:
        ids = torch.from_numpy(each["input_ids"][None])
        logits = student.lm_head(student.transformer(ids).last_hidden_state)[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    expected = without + 0.5 * torch.cat(losses).mean().item()
    assert student(**batch).loss.item() == pytest.approx(expected, rel=1e-5)


def test_base_model_has_no_projection(student: Student) -> None:
    base = student.base_model_of()
    assert not any("projection" in name for name in base.state_dict()) and "teacher_width" not in base.config.to_dict()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(
        base(ids).logits, student.lm_head(student.transformer(ids).last_hidden_state), rtol=0, atol=0
    )
