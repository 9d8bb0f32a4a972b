import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from classifier.decoding import probabilities
from classifier.errors import ArtifactError, LabelError
from tests.support.article_model import old_forward, tiny
from tests.support.texts import news_rows
from training.__main__ import main
from training.convert import Conversion, convert
from training.errors import ConfigError
from training.report.predict import predict_logits

LABELS = ("business", "sport", "politics")


@pytest.fixture
def settings(base_model: Path) -> Conversion:
    return Conversion(LABELS, tokenizer=str(base_model), heads=2)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    torch.save(tiny().state_dict(), path)
    return path


def test_answers_are_the_articles_own(
    checkpoint: Path, settings: Conversion, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    artifact = convert(checkpoint, tmp_path / "model", settings)
    texts = [row["text"].title() for row in news_rows(50)] + ["One"]
    # as the article's code did it: lower case, at most 24 tokens, padded on the left with <|endoftext|>
    tokenizer.enable_truncation(24)
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="<|endoftext|>", length=24)
    encodings = tokenizer.encode_batch([text.lower() for text in texts])
    assert len({sum(e.attention_mask) for e in encodings}) > 1  # with padding and without
    with torch.inference_mode():
        logits = old_forward(
            tiny(), torch.tensor([e.ids for e in encodings]), torch.tensor([e.attention_mask for e in encodings])
        )
    expected = logits.softmax(-1).numpy()
    answers = probabilities(predict_logits(artifact.model(), artifact.encoder(), texts), 1.0)
    assert abs(answers - expected).max() < 1e-4
    assert artifact.manifest.labels == list(LABELS) and artifact.manifest.on_long == "truncate"


def test_article_archive_from_the_command_line(checkpoint: Path, base_model: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        files.add(checkpoint, "model.pth")
        info = tarfile.TarInfo("code/inference.py")
        files.addfile(info, io.BytesIO(b""))
    flags = ["--tokenizer", str(base_model), "--heads", "2", "--labels", ", ".join(LABELS)]
    assert main(["convert", str(archive), "--output", str(tmp_path / "model"), *flags]) == 0
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["head"] == "flatten" and manifest["max_tokens"] == 24
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "all positions, padded on the left" in card and "not calibrated" in card and "None" not in card


def test_buffers_of_old_versions_and_data_parallel_names_are_understood(
    checkpoint: Path, settings: Conversion, tmp_path: Path
) -> None:
    state = {"module." + key: value for key, value in tiny().state_dict().items()}
    state["module.gpt2model.h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril().bool()
    state["module.gpt2model.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, tmp_path / "old.pth")
    plain = convert(checkpoint, tmp_path / "a", settings)
    assert convert(tmp_path / "old.pth", tmp_path / "b", settings).weights_sha256 == plain.weights_sha256


def _without(key: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tiny().state_dict().items() if name != key}


def test_pickled_code_does_not_run(settings: Conversion, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"fc1.weight": Harm()}, tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="not a readable PyTorch state dict of tensors alone") as caught:
        convert(tmp_path / "model.pth", tmp_path / "model", settings)
    assert not (tmp_path / "ran").exists() and "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classifier.weight": torch.zeros(2, 2)}, "classifier.weight is not part of a SimpleGPT2SequenceClassifier"),
        (_without("fc1.weight"), "no fc1.weight of two dimensions"),
        (_without("gpt2model.h.1.ln_1.weight"), "not a GPT-2's weights: .*transformer.h.1.ln_1.weight"),
        (_without("gpt2model.h.0.mlp.c_fc.weight"), "no gpt2model.h.0.mlp.c_fc.weight of two dimensions"),
        (tiny(num_classes=4).state_dict(), "fc1 has 4 rows, 3 labels were given"),
        (tiny(vocab_size=300).state_dict(), "has 400 tokens, but the checkpoint has 300"),
        (tiny() , "not a readable PyTorch state dict|a state dict is needed"),
        ({"a": 1}, "a state dict is needed"),
        (_without("") | {"fc1.bias": torch.tensor([0.0, float("nan"), 0.0])}, "not finite numbers: score.bias"),
        (_without("") | {"gpt2model.wte.weight": torch.zeros(400, 0)}, "no gpt2model.wte.weight of two dimensions"),
    ],
)  # fmt: skip
def test_other_checkpoints_are_refused(content: object, message: str, settings: Conversion, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(Exception, match=message) as caught:
        convert(tmp_path / "model.pth", tmp_path / "model", settings)
    assert type(caught.value).__module__.startswith(("training.", "classifier."))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pth", r"none\.pth: cannot be read: No such file or directory"),
        ("junk.pth", "not a readable PyTorch state dict"),
        ("empty.tar.gz", r"no model\.pth in the archive"),
    ],
)
def test_unusable_files_are_refused(name: str, message: str, settings: Conversion, tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz"):
        pass
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path / name, tmp_path / "model", settings)


def test_unusable_settings_and_a_place_in_use_are_refused(
    checkpoint: Path, settings: Conversion, tmp_path: Path
) -> None:
    convert(checkpoint, tmp_path / "taken", settings)
    refused: list[tuple[type[Exception], str, str, dict[str, Any]]] = [
        (LabelError, "", "model", {"labels": ("a", "a", "b")}),
        (ConfigError, "pass --heads", "model", {"heads": 0}),
        (ConfigError, "pass --heads", "model", {"heads": -2}),
        (ArtifactError, "--overwrite", "taken", {}),
    ]
    for kind, message, output, changes in refused:
        with pytest.raises(kind) as caught:
            convert(checkpoint, tmp_path / output, dataclasses.replace(settings, **changes))
        assert message in str(caught.value)
