"""Leaving sentences out: where they begin and end, what is asked of the model, and what is answered."""

import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.engine import Prediction
from service.inference.explain import MAX_PARTS, log_odds, parts_of, sentences
from tests.support.app import Service, ServiceFactory
from tests.support.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ("no punctuation at all", ["no punctuation at all"]),
        ("lower case. is cut as well", ["lower case.", "is cut as well"]),
        ("Mr. Brown met Dr. J. Smith at No. 10. He left.", ["Mr. Brown met Dr. J. Smith at No. 10.", "He left."]),
        ("A rise of 3.5% to 1.2bn. Then...", ["A rise of 3.5% to 1.2bn.", "Then..."]),
        ('He said: "Never." They left (at last.) Then?!', ['He said: "Never."', "They left (at last.)", "Then?!"]),
        ("Headline\n\nFirst line\nof a paragraph.\n", ["Headline", "First line\nof a paragraph."]),
        ("  \n\n . ", ["."]),
        ("It cost 5......  And aProf. Lee, of Q.", ["It cost 5......", "And aProf.", "Lee, of Q."]),
        ("Q. Ltd. left.", ["Q. Ltd.", "left."]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@pytest.mark.parametrize("text", ["x" + "." * 199_998 + "x", "A. " * 66_666, "x." + "'" * 199_998, "?!." * 66_666])
def test_the_longest_text_takes_no_time_to_cut(text: str) -> None:
    started = time.process_time()
    cut(text)
    assert time.process_time() - started < 2, "minutes if the time grew with the square of the length"


texts = st.text(alphabet="ab.!? \n\"')", max_size=300)


@given(text=texts, most=st.integers(1, 8))
def test_parts_hold_every_character_once_in_order(text: str, most: int) -> None:
    parts = parts_of(text, most)
    assert len(parts) <= most
    assert all(start < end for start, end in parts)
    assert all(one[1] <= other[0] for one, other in pairwise(parts))
    assert "".join("".join(text[a:b] for a, b in parts).split()) == "".join(text.split())
    whole = set(sentences(text))
    assert {start for start, _ in parts} <= {start for start, _ in whole}


@given(text=st.lists(st.just("word word."), min_size=MAX_PARTS + 1, max_size=400).map(" ".join))
def test_stretches_are_about_equally_long(text: str) -> None:
    lengths = [end - start for start, end in parts_of(text)]
    assert max(lengths) <= 2 * min(lengths) + len("word word. ")


def test_log_odds_are_those_of_the_calibrated_probability() -> None:
    scores = (("a", 0.8), ("b", 0.15), ("c", 0.05))
    assert log_odds(Prediction(scores, False), "a") == pytest.approx(math.log(4))
    assert log_odds(Prediction(scores, False), "c") == pytest.approx(math.log(0.05 / 0.95))
    certain = Prediction((("a", 1.0), ("b", 0.0)), False)
    assert log_odds(certain, "a") == -log_odds(certain, "b") and math.isfinite(log_odds(certain, "a"))


class Counting(FakeEngine):
    """Logit of "sport": one for each goal; of the others 0."""

    def decode(self, text: Any, logits: Any) -> Prediction:
        odds = math.exp(str(text.windows[0].payload).count("goal"))
        scores = {"sport": odds / (odds + 2), "business": 1 / (odds + 2), "politics": 1 / (odds + 2)}
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        return Prediction(tuple(ranked), unsure=False)


@pytest.fixture
def engine() -> FakeEngine:
    return Counting()


async def test_each_sentence_is_left_out_in_turn(service_with: ServiceFactory) -> None:
    text = "  A goal and a goal. Nothing here. Another goal.  "
    async with service_with(max_texts=2) as service:
        answer = (await service.post("/predict", {"text": text, "explain": True})).json()
        plain = (await service.post("/predict", {"text": text})).json()
        assert await service.metric("classifier_texts_total") == 2, "what is left out is no traffic"
    found = answer.pop("explanation")
    assert {**answer, "timing": None} == {**plain, "timing": None}
    shown = [text[s["start"] : s["end"]] for s in found["sentences"]]
    assert shown == ["A goal and a goal.", "Nothing here.", "Another goal."]
    assert [s["contribution"] for s in found["sentences"]] == pytest.approx([2, 0, 1])
    assert [s["alone"] for s in found["sentences"]] == pytest.approx([goals - math.log(2) for goals in (2, 0, 1)])
    assert found["label"] == "sport" and found["log_odds"] == pytest.approx(3 - math.log(2))
    assert found["sum"] == pytest.approx(3) and found["remainder"] == pytest.approx(-math.log(2))


async def test_only_what_was_read_is_explained_and_nothing_later_comes_into_view(service: Service) -> None:
    read = "A goal was scored here today. " + "word " * 40 + "end here. Another goal"  # 50 words
    text = f"{read} came. " + "goal " * 30
    body = {"text": text, "explain": True, "on_long": "truncate"}
    answer = (await service.post("/predict", body)).json()
    assert answer["tokens_read"] == 50 and "spans" not in answer
    found = answer["explanation"]["sentences"]
    assert [text[s["start"] : s["end"]] for s in found] == [text[a:b] for a, b in sentences(read)]
    assert [s["contribution"] for s in found] == pytest.approx([1, 0, 1])


async def test_one_sentence_has_no_contribution(service: Service) -> None:
    answer = (await service.post("/predict", {"text": "One goal.", "explain": True})).json()
    [sentence] = answer["explanation"]["sentences"]
    assert set(sentence) == {"start", "end", "alone"} and sentence["alone"] == answer["explanation"]["log_odds"]


async def test_a_rest_on_which_the_model_fails_has_none_either(service: Service) -> None:
    class Fragile(Counting):
        def infer(self, windows: Any) -> Any:
            if any("goal" not in window.payload for window in windows):
                raise RuntimeError("no goal")
            return super().infer(windows)

    service.lifecycle.current_pipeline().batcher.lanes[0].thread.model = Fragile()
    answer = await service.post("/predict", {"text": "A goal. Nothing.", "explain": True})
    assert answer.status_code == 200
    fields = [set(s) - {"start", "end"} for s in answer.json()["explanation"]["sentences"]]
    assert fields == [{"alone"}, {"contribution"}]


async def test_the_time_allowed_is_for_all_of_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.pipeline.Timing.total_ms", 60_000.0)
    answer = await service.post("/predict", {"text": "A goal. Nothing.", "explain": True})
    assert (answer.status_code, answer.json()["kind"]) == (504, "deadline_exceeded")
    assert (await service.post("/predict", {"text": "A goal. Nothing."})).status_code == 200


async def test_time_that_runs_out_is_said_to_be_the_requests(service: Service) -> None:
    class Stalling(Counting):
        def infer(self, windows: Any) -> Any:
            if len(self.batches) == 1:  # the text itself is answered
                self.gate.clear()
            return super().infer(windows)

    engine = Stalling()
    service.lifecycle.current_pipeline().batcher.lanes[0].thread.model = engine
    answer = await service.post("/predict", {"text": "A goal. Nothing.", "explain": True, "timeout_ms": 300})
    engine.gate.set()
    assert (answer.status_code, answer.json()["kind"]) == (504, "deadline_exceeded")
    assert "no answer within 300 ms" in answer.json()["error"]


async def test_only_predict_explains(service: Service) -> None:
    refused = await service.post("/batch", {"texts": ["a"], "explain": True})
    assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, "explain")
    lines = await service.client.post(
        "/batch", content=b'{"text": "a", "explain": true}\n', headers={"content-type": "application/x-ndjson"}
    )
    assert lines.json()["kind"] == "invalid_request"
