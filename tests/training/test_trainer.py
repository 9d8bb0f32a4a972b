import torch

from classifier.encoding import EncodedText, Window
from classifier.model import GPT2Classifier
from training.config import TrainConfig
from training.trainer import Collator, TokenizedTexts, _set_dropout


def text(*ids: int) -> EncodedText:
    return EncodedText((Window(ids, 0, 1), Window((9,), 1, 2)), len(ids) + 1, len(ids) + 1)


def test_batches_are_left_padded_first_windows_with_positions() -> None:
    data = TokenizedTexts([text(1, 2, 3), text(4)], [1, 0])
    batch = Collator(0)([data[i] for i in range(len(data))])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]


def test_dropout_is_set_everywhere_but_in_attention(model: GPT2Classifier) -> None:
    import copy

    changed = copy.deepcopy(model)
    _set_dropout(changed, 0.3)
    attention = {block.attn.attn_dropout for block in changed.transformer.h}
    assert {module.p for module in attention} == {0.0}
    others = [m for m in changed.modules() if isinstance(m, torch.nn.Dropout) and m not in attention]
    assert len(others) > 3 and {module.p for module in others} == {0.3}


def test_default_config_is_valid() -> None:
    assert TrainConfig().max_seq_len == 512
