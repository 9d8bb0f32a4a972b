import torch

from classifier.model import GPT2Classifier, infer_sequences
from training.config import TrainConfig
from training.fit.trainer import _set_dropout, freeze, learning_rates


def test_every_token_answers_are_those_of_the_prefixes(model: GPT2Classifier) -> None:
    """What dense supervision rests on, and what a causal model promises."""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        dense = model(ids, torch.ones_like(ids), every_token=True).logits[0]
    prefixes = torch.cat([infer_sequences(model, [[5, 6, 7, 8][: n + 1]]) for n in range(4)])
    torch.testing.assert_close(dense, prefixes, atol=1e-4, rtol=1e-5)


def test_dropout_is_set_everywhere_but_in_attention(model: GPT2Classifier) -> None:
    import copy

    changed = copy.deepcopy(model)
    _set_dropout(changed, 0.3)
    attention = {block.attn.attn_dropout for block in changed.transformer.h}
    assert {module.p for module in attention} == {0.0}
    others = [m for m in changed.modules() if isinstance(m, torch.nn.Dropout) and m not in attention]
    assert len(others) > 3 and {module.p for module in others} == {0.3}


def test_frozen_parts_leave_the_optimiser_and_rates_fall_with_depth(model: GPT2Classifier) -> None:
    import copy

    changed = copy.deepcopy(model)
    freeze(changed, embeddings=True, layers=1)
    learning = {name for name, p in changed.named_parameters() if p.requires_grad}
    assert all(name.startswith(("transformer.h.1.", "transformer.ln_f.", "score.")) for name in learning)
    groups = learning_rates(changed, 1.0, 0.5, 0.1)
    assert sum(len(g["params"]) for g in groups) == len(learning)

    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: (g["lr"], g["weight_decay"]) for g in learning_rates(model, 1.0, 0.5, 0.1) for p in g["params"]
    }
    assert len(rates) == len(names)
    assert rates["score.weight"] == (1.0, 0.1) and rates["transformer.ln_f.bias"] == (1.0, 0.0)
    assert rates["transformer.h.1.mlp.c_fc.weight"] == (0.5, 0.1) and rates["transformer.h.0.ln_1.bias"] == (0.25, 0.0)
    assert rates["transformer.wte.weight"] == rates["transformer.wpe.weight"] == (0.125, 0.1)


def test_default_config_is_valid() -> None:
    assert TrainConfig().max_seq_len == 512
