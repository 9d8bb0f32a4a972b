"""The page: classify a text, classify a file, look at the model. `make app`, then http://localhost:8501.

Whatever does not need Streamlit is in the other modules of client.page; `client.Client` asks the service.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Streamlit puts this file's directory first on the path, whose modules are not meant to be found by their bare names.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *(place for place in sys.path if Path(place or ".").resolve() != HERE)]

import streamlit as st  # noqa: E402

from client.client import Client  # noqa: E402
from client.errors import ClientError, Unsupported  # noqa: E402
from client.models import Explanation, Info, Prediction  # noqa: E402
from client.page import file, markup, words  # noqa: E402
from client.page.examples import EXAMPLES, PLACEHOLDER  # noqa: E402
from client.page.model import calibration_picture, facts, input_note  # noqa: E402
from client.page.words import plain  # noqa: E402
from client.settings import load_settings  # noqa: E402
from client.transport.retry import NEVER, Retry  # noqa: E402

IMPATIENT = Retry(total_s=20, tries=3)  # for a person who waits
EXPLAIN_MS = 20_000
INFO_S = 5  # seconds for which an answer of /info is kept
NO_EXAMPLE = "a text of your own"


@dataclass
class Answer:
    """A classified text, kept for the next runs of the page."""

    text: str
    prediction: Prediction
    seconds: float
    wants_explanation: bool
    explanation: Explanation | None = None
    why_not: str = ""  # Markdown that says why there is no explanation


@st.cache_data(ttl=INFO_S, max_entries=16, show_spinner=False)
def info_of(url: str, api_key: str) -> Info:
    """Return the model and the limits. Raises ClientError."""
    with Client(url, api_key=api_key, retry=NEVER, timeout_s=5) as client:
        return client.info()


def main() -> None:
    st.set_page_config("GPT-2 text classifier", layout="centered", initial_sidebar_state="auto")
    st.header("What is this text about?", anchor=False)
    url, api_key = sidebar()
    tabs = st.tabs(["A text", "A file", "The model"])
    for tab, fill in zip(tabs, (text_tab, file_tab, model_tab), strict=True):
        with tab:
            fill(url, api_key)


def show_error(error: ClientError) -> None:
    title, what = words.trouble(error)
    st.error(f"**{title}.** {what}")


def sidebar() -> tuple[str, str]:
    """Return the service's address and the key. The configured key goes to the configured address only."""
    settings = load_settings()
    url, api_key = settings.url, settings.api_key
    with st.sidebar:
        st.header("Service")
        if not settings.fixed:
            kind = st.radio("Where", ["HTTP", "SageMaker endpoint"], index=int(url.startswith("sagemaker:")))
            if kind == "HTTP":
                shown = "" if url.startswith("sagemaker:") else url
                url = st.text_input("Address", shown, placeholder="http://localhost:8080").strip() or url
                entered = st.text_input("API key", type="password", help="Only if the service asks for one.").strip()
                api_key = entered or (api_key if url == settings.url else "")
            else:
                url = endpoint(url)
        show_state(url, api_key)
        if st.button("Check again", help="Ask the service once more whether it is ready."):
            info_of.clear()
            st.rerun()
    return url, api_key


def endpoint(url: str) -> str:
    """Return a SageMaker endpoint's address. The credentials are those of the machine that runs the page."""
    name, _, query = url.removeprefix("sagemaker://").partition("?") if url.startswith("sagemaker:") else ("", "", "")
    name = st.text_input("Endpoint", name).strip()
    region = st.text_input("Region", query.removeprefix("region="), help="Leave empty for the machine's own.").strip()
    return f"sagemaker://{name}" + (f"?region={region}" if region else "")


def show_state(url: str, api_key: str) -> None:
    try:
        info = info_of(url, api_key)
    except Unsupported:
        st.info("An endpoint does not tell whether it is ready: classify a text to find out.")
    except ClientError as exc:
        st.error(words.trouble(exc)[0])
    else:
        st.success(f"Ready: {plain(info.model.name)}, version {plain(info.model.version)}")


def take_example() -> None:
    chosen = st.session_state["example"]
    if chosen in EXAMPLES:
        st.session_state["text"] = EXAMPLES[chosen]
    st.session_state.pop("answer", None)


def text_tab(url: str, api_key: str) -> None:
    st.selectbox("Start from", [NO_EXAMPLE, *EXAMPLES], key="example", on_change=take_example)
    with st.form("lone", border=False):
        text = st.text_area("The text", key="text", height=220, placeholder=PLACEHOLDER, label_visibility="collapsed")
        explain = st.checkbox("Show what each sentence contributed", value=True)
        asked = st.form_submit_button("Classify", type="primary")
    if asked:
        st.session_state.pop("answer", None)
        if text.strip():
            classify(url, api_key, text, explain)
        else:
            st.info("Type or paste a text, or choose an example above.")
    if (answer := st.session_state.get("answer")) is not None:
        show_prediction(answer)
        if answer.wants_explanation:
            explain_answer(url, api_key, answer)
        show_explanation(answer)


def classify(url: str, api_key: str, text: str, explain: bool) -> None:
    """Keep the answer for this and the next runs of the page."""
    try:
        with st.spinner("The model reads the text"), Client(url, api_key=api_key, retry=IMPATIENT) as client:
            began = time.perf_counter()
            prediction = client.predict(text)
            seconds = time.perf_counter() - began
    except ClientError as exc:
        show_error(exc)
    else:
        st.session_state["answer"] = Answer(text, prediction, seconds, explain)


def explain_answer(url: str, api_key: str, answer: Answer) -> None:
    """Ask for the explanation, which takes several times as long as the answer that is shown already."""
    answer.wants_explanation = False
    try:
        with (
            st.spinner("The model reads the text again without each of its sentences"),
            Client(url, api_key=api_key, retry=IMPATIENT) as client,
        ):
            answer.explanation = client.predict(answer.text, explain=True, timeout_ms=EXPLAIN_MS).explanation
    except ClientError as exc:
        answer.why_not = f"There is no explanation for this text. {words.trouble(exc)[1]}"


def show_prediction(answer: Answer) -> None:
    prediction = answer.prediction
    st.subheader(f"{plain(prediction.label)}{' · unsure' if prediction.unsure else ''}", anchor=False)
    for note in words.notes(answer.text, prediction):
        st.warning(plain(note))
    st.html(markup.bars(prediction.scores))
    facts = words.reading(prediction, answer.seconds)
    st.html(markup.small(" · ".join(f"{name}: {value}" for name, value in facts)))


def show_explanation(answer: Answer) -> None:
    if answer.why_not:
        st.info(answer.why_not)
    if (explanation := answer.explanation) is None:
        return
    st.subheader("What each sentence contributed", anchor=False)
    st.html(markup.coloured(answer.text, explanation))
    st.html(markup.small(words.explained(explanation)))
    names = {"left out": "when left out", "alone": "by itself"}
    formats = {name: st.column_config.NumberColumn(title, format="%+.2f") for name, title in names.items()}
    with st.expander("As a table"):
        st.dataframe(words.sentence_rows(answer.text, explanation), hide_index=True, column_config=formats)


def file_tab(url: str, api_key: str) -> None:
    uploaded = st.file_uploader("A file with one text in each row", type=list(file.TYPES), key="upload")
    if uploaded is None:
        st.html(markup.small("CSV, TSV, JSON Lines or Parquet, with named columns. Rows without an answer are kept."))
        st.session_state.pop("file", None)
        return
    try:
        if st.session_state.get("file", {}).get("id") != uploaded.file_id:
            directory = tempfile.TemporaryDirectory(prefix="page-")  # ends with the session
            path = file.save(uploaded.getbuffer(), uploaded.name, Path(directory.name))
            st.session_state["file"] = {"id": uploaded.file_id, "directory": directory, "path": path}
        kept = st.session_state["file"]
        columns = file.columns_of(kept["path"])
        column = st.selectbox("Column with the texts", columns, index=file.likely_column(columns))
        if st.button("Classify the file", type="primary"):
            kept["labelled"] = classify_file(kept["path"], column, url, api_key)
    except file.Busy:
        st.info("This page is classifying a file already, and takes one at a time. Try again in a while.")
        return
    except ClientError as exc:
        show_error(exc)
        return
    if "labelled" in kept:
        show_labelled(kept["labelled"], uploaded.name)


def classify_file(path: Path, column: str, url: str, api_key: str) -> file.LabelledFile:
    """Classify, with a bar that shows the progress. Raises ClientError, file.Busy."""
    bar, began = st.progress(0.0, "The file is being read"), time.monotonic()

    def tell(rows: int, total: int) -> None:
        bar.progress(rows / total if total else 1.0, words.pace(rows, total, time.monotonic() - began))

    summary, output = file.classify_file(path, column, url, api_key, tell)
    bar.empty()
    return file.read_labelled(summary, output, column, file.prefix_for(file.columns_of(path)))


def show_labelled(labelled: file.LabelledFile, name: str) -> None:
    summary = labelled.summary
    failed = sum(summary.failed.values())
    st.markdown(f"**{summary.rows:,} rows** in {summary.seconds:.1f} s; {summary.unsure:,} unsure, {failed:,} failed.")
    with labelled.output.open("rb") as content:
        st.download_button("Download the labelled file", content, f"labelled-{name}", type="primary")
    if labelled.labels:
        st.bar_chart(dict(labelled.labels.most_common()), horizontal=True, x_label="", y_label="rows")
    labels = st.multiselect("Labels", sorted({row["label"] for row in labelled.rows} - {""}), placeholder="all")
    only = st.radio("Rows", ["all", "unsure", "failed"], horizontal=True)
    least = st.slider("Smallest probability", 0.0, 1.0, 0.0, 0.05)
    rows = labelled.filtered(labels, only, least)
    of_first = f" of the first {file.MOST_ROWS:,}" if summary.rows > file.MOST_ROWS else ""
    st.html(markup.small(f"{len(rows):,} rows{of_first}"))
    st.dataframe(rows, hide_index=True, height=320)


def model_tab(url: str, api_key: str) -> None:
    try:
        info = info_of(url, api_key)
    except ClientError as exc:
        show_error(exc)
        return
    model = info.model
    st.markdown(f"**{plain(model.name)}**, version {plain(model.version)}; service {plain(info.service)}")
    st.markdown("Labels: " + ", ".join(plain(label) for label in model.labels))
    measured = (model.model_extra or {}).get("metrics") or {}
    if "accuracy" in measured:
        show_quality(measured)
    if note := input_note(info):
        st.html(markup.small(note))
    st.subheader("Facts and limits", anchor=False)
    rows = [{"what": name, "value": value} for name, value in facts(info).items()]
    st.dataframe(rows, hide_index=True, height="content")


def show_quality(measured: dict[str, Any]) -> None:
    """Show the accuracy, and how far the probabilities can be trusted."""
    left, right = st.columns(2)
    low, high = measured.get("intervals", {}).get("accuracy", (None, None))
    within = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" if low is not None else ""
    left.metric("Right answers on new texts", f"{100 * measured['accuracy']:.1f} %", help=within or None)
    left.html(markup.small(f"{measured.get('rows', 0):,} texts. {within}"))
    if baseline := measured.get("baseline"):
        right.metric(plain(baseline["model"]), f"{100 * baseline['accuracy']:.1f} %", help="On the same texts.")
    if curve := measured.get("reliability"):
        st.subheader("When the model says 90 %, is it right nine times in ten?", anchor=False)
        st.vega_lite_chart(curve, calibration_picture(), width="stretch")
        told = "A dot on the line means yes. Larger dots stand for more texts."
        if (error := measured.get("calibration", {}).get("ece")) is not None:
            told += f" Expected calibration error: {100 * error:.1f} %."
        st.html(markup.small(told))


main()
