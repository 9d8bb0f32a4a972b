"""Leaving sentences out: where they begin and end, what is asked of the model, and what is answered."""

import math
import re
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.decoding import combine_windows, probabilities
from classifier.encoding import window_starts
from service.inference.engine import Prediction, TextWindows
from service.inference.explain import MAX_PARTS, TIME_SHARE, WindowReadings, log_odds, parts_of, sentences
from service.inference.pipeline import Answer, WindowAnswer
from tests.support.app import Service, ServiceFactory
from tests.support.fake_engine import LABELS, MAX_TOKENS, FakeEngine, item

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
    assert log_odds(scores, "a") == pytest.approx(math.log(4))
    assert log_odds(scores, "c") == pytest.approx(math.log(0.05 / 0.95))
    certain = (("a", 1.0), ("b", 0.0))
    assert log_odds(certain, "a") == -log_odds(certain, "b") and math.isfinite(log_odds(certain, "a"))


rows = st.lists(st.floats(-20, 20), min_size=3, max_size=3)


@given(
    logits=st.lists(rows, min_size=1, max_size=6),
    others=st.lists(rows, max_size=3),
    data=st.data(),
)
def test_replaced_windows_are_combined_as_the_engine_combines_windows(
    logits: list[list[float]], others: list[list[float]], data: st.DataObject
) -> None:
    def prediction(row: list[float]) -> Prediction:
        return Prediction(tuple(zip(LABELS, probabilities(row).tolist(), strict=True)), unsure=None)

    tokens = [10 + i for i in range(len(logits))]
    windows = [WindowAnswer(i, i + 1, tokens[i], prediction(row)) for i, row in enumerate(logits)]
    instead = [Answer(prediction(row), 7, 7, 1) for row in others]
    first = data.draw(st.integers(0, len(logits)))
    last = data.draw(st.integers(first, len(logits)))
    found = WindowReadings(windows).log_odds("sport", range(first, last), instead)
    kept = [*range(first), *range(last, len(logits))]
    if not kept and not others:
        assert found is None
        return
    combined = combine_windows(
        [*(logits[i] for i in kept), *others], [*(tokens[i] for i in kept), *(7 for _ in others)]
    )
    expected = probabilities(combined).tolist()
    assert found == pytest.approx(log_odds(zip(LABELS, expected, strict=True), "sport"), abs=1e-4)


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


class Windowed(Counting):
    """Reads long texts in windows of 50 words, one each 40. Logit of "sport": goals of a window, as a weighted mean."""

    def _encode(self, text: str, on_long: Any) -> Any:
        places = [match.span() for match in re.finditer(r"\S+", text)]
        if not places:
            return super()._encode(text, on_long)
        stretches = [places[start : start + MAX_TOKENS] for start in window_starts(len(places), MAX_TOKENS, 40)]
        spans = tuple((stretch[0][0], stretch[-1][1]) for stretch in stretches)
        windows = tuple(item(text[a:b], len(stretch)) for (a, b), stretch in zip(spans, stretches, strict=True))
        return TextWindows(windows, len(places), len(places), spans)

    def encode(self, texts: Any, on_long: Any, spans: bool = False) -> list[Any]:
        return [self._encode(text, on_long) for text in texts]

    def decode(self, text: Any, logits: Any) -> Prediction:
        rows = [[window.payload.count("goal"), 0, 0] for window in text.windows]
        row = combine_windows(rows, [window.tokens for window in text.windows])
        scores = zip(("sport", "business", "politics"), probabilities(row).tolist(), strict=True)
        return Prediction(tuple(sorted(scores, key=lambda pair: -pair[1])), unsure=False)

    @property
    def tokens_read(self) -> int:
        return sum(len(text.split()) for batch in self.batches for text in batch)


def sentence(goals: int, length: int = 10) -> str:
    return " ".join(["goal"] * goals + ["word"] * (length - goals - 1) + ["end."])


@pytest.mark.parametrize("engine", [Windowed()])
async def test_a_sentence_is_left_out_of_the_windows_that_have_it(service: Service, engine: Windowed) -> None:
    """Nine sentences of ten words in the windows 0 to 49 and 40 to 89; the fifth is in both."""
    goals = [1, 0, 0, 0, 2, 0, 0, 3, 0]
    answer = (await service.post("/predict", {"text": " ".join(map(sentence, goals)), "explain": True})).json()
    found = answer["explanation"]
    assert answer["windows"] == 2 and found["complete"]
    whole = (3 + 5) / 2  # mean of the windows, which have 3 and 5 goals
    first, second, both = (2 * 40 + 5 * 50) / 90, (3 * 50 + 2 * 40) / 90, (1 * 40 + 3 * 40) / 80
    expected = [whole - first, *[whole - (3 * 40 + 5 * 50) / 90] * 3, whole - both]
    assert [s["contribution"] for s in found["sentences"][:5]] == pytest.approx(expected, abs=1e-5)
    assert found["sentences"][7]["contribution"] == pytest.approx(whole - second, abs=1e-5)


def contributing(answer: httpx.Response) -> list[int]:
    """Return the positions of the sentences that were left out."""
    return [i for i, s in enumerate(answer.json()["explanation"]["sentences"]) if "contribution" in s]


@pytest.mark.parametrize("engine", [Windowed()])
async def test_the_budget_goes_to_the_sentences_that_say_most_alone(
    service: Service, engine: Windowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(map(sentence, [1, 3, 0, 2]))  # alone: 1, 3, 0 and 2 minus ln 2
    for tokens, positions in ((10, []), (79, []), (80, [1]), (120, [1, 3]), (200, [0, 1, 2, 3])):
        monkeypatch.setattr("service.inference.explain.MAX_TOKENS", tokens)
        answer = await service.post("/predict", {"text": text, "explain": True})
        found = answer.json()["explanation"]
        assert contributing(answer) == positions and found["complete"] is (len(positions) == 4)
        alone = sum("alone" in sentence for sentence in found["sentences"])
        assert alone == (4 if tokens >= 40 else 1), "the first ones, if not all are within the budget"


@pytest.mark.parametrize("engine", [Windowed()])
async def test_an_explanation_ends_before_the_time_does(
    service: Service, engine: Windowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = service.lifecycle.current_pipeline().batcher._admission.rate
    monkeypatch.setattr(rate, "learn", lambda *_: None)
    body = {"text": " ".join(map(sentence, [1, 3, 0, 2])), "explain": True, "timeout_ms": 30_000}
    rate.tokens_per_s = 90 / (TIME_SHARE * 30)  # 40 tokens for the sentences alone, 40 for one that is left out
    assert contributing(await service.post("/predict", body)) == [1]


@pytest.mark.parametrize("engine", [Windowed()])
async def test_the_cost_grows_with_the_text_and_not_with_its_square(service: Service, engine: Windowed) -> None:
    for count in (128, 1280):
        before = engine.tokens_read
        text = " ".join(f"a{i} b{i} c{i} d{i} e{i} f{i} g{i} h{i} i{i} end." for i in range(count))
        answer = (await service.post("/predict", {"text": text, "explain": True})).json()
        assert answer["explanation"]["complete"] and len(answer["explanation"]["sentences"]) == MAX_PARTS
        assert engine.tokens_read - before < 8 * answer["tokens"]


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


async def test_every_reading_of_an_explanation_waits_for_room(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue refused the sentences of a request whose text was answered already."""
    waits: list[bool] = []
    submit = service.app.state.lifecycle.current_pipeline().batcher.submit

    async def recorded(windows: Any, deadline: Any, priority: Any, wait_for_room: bool = False) -> Any:
        waits.append(wait_for_room)
        return await submit(windows, deadline, priority, wait_for_room)

    monkeypatch.setattr(service.app.state.lifecycle.current_pipeline().batcher, "submit", recorded)
    answer = await service.post("/predict", {"text": "One is here. Two is there. Three is gone.", "explain": True})
    assert answer.status_code == 200
    assert waits == [False, True, True], "the text, its sentences alone, and the text without each"
