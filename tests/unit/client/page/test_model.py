"""The model's facts on the page."""

import pytest

from client.models import Info, Limits, ModelInfo
from client.page.model import calibration_picture, facts, input_note


def test_facts_are_what_info_says_and_nothing_that_it_does_not() -> None:
    told = {"name": "m", "version": "v", "labels": ["a"], "max_tokens": 1024, "parameters": 124_000_000}
    model = ModelInfo.model_validate(told | {"precision": "int8"})
    found = facts(Info(service="1", model=model, limits=Limits()))
    assert found["parameters"] == "124,000,000" and found["tokens read at once"] == "1,024"
    assert found["longer texts"] == "read in overlapping windows" and found["max texts"] == "256"
    assert "temperature" not in found and "unsure below" not in found


@pytest.mark.parametrize(
    ("threshold", "said"), [(0.7, "always at 8, 0.700 at 1,024 tokens"), (None, "no threshold is known")]
)
def test_the_threshold_is_told_or_that_there_is_none(threshold: float | None, said: str) -> None:
    points = [
        {"tokens": 8, "temperature": 2.0, "unsure_below": None},
        {"tokens": 1024, "temperature": 1.0, "unsure_below": threshold},
    ]
    told = {"name": "m", "version": "v", "labels": ["a"], "max_tokens": 1024, "calibration": {"points": points}}
    found = facts(Info(service="1", model=ModelInfo.model_validate(told), limits=Limits()))
    assert found["unsure below"] == said
    assert found["temperature"] == "2.000 at 8, 1.000 at 1,024 tokens"


def test_it_is_told_what_a_text_was_in_training() -> None:
    told = {"name": "m", "version": "v", "labels": ["a"], "max_tokens": 1024, "input": "title, blank line, text"}
    info = Info(service="1", model=ModelInfo.model_validate(told), limits=Limits())
    assert "a text was: title, blank line, text." in input_note(info)
    unknown = ModelInfo.model_validate(told | {"input": None})
    assert input_note(Info(service="1", model=unknown, limits=Limits())) == ""


def test_the_picture_reads_the_fields_of_the_curve() -> None:
    dots = calibration_picture()["layer"][1]["encoding"]
    assert {dots[name]["field"] for name in ("x", "y", "size")} == {"confidence", "right", "rows"}
