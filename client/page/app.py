"""The page: classify a text, classify a file, look at the model. `make app`, then http://localhost:8501.

All that can be said without Streamlit is in the other modules of client.page; all questions to the service go through
`client.Client`.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Streamlit puts this file's directory first on the path, whose modules are not meant to be found by their bare names.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *(place for place in sys.path if Path(place or ".").resolve() != HERE)]

import streamlit as st  # noqa: E402

from client.client import Client  # noqa: E402
from client.errors import ClientError, Unsupported  # noqa: E402
from client.models import Explanation, Info, Prediction  # noqa: E402
from client.page.examples import EXAMPLES, PLACEHOLDER  # noqa: E402
from client.page.file import (  # noqa: E402
    MOST_ROWS,
    TYPES,
    Shown,
    classify_file,
    columns_of,
    likely_column,
    prefix_for,
    shown,
)
from client.page.markup import bars, coloured, small  # noqa: E402
from client.page.model import calibration_picture, facts  # noqa: E402
from client.page.words import explained, notes, pace, plain, reading, sentence_rows, trouble  # noqa: E402
from client.settings import load_settings  # noqa: E402
from client.transport.retry import NEVER, Retry  # noqa: E402

IMPATIENT = Retry(total_s=20, tries=3)  # for a person who waits
EXPLAIN_MS = 20_000
STATE_S = 5  # that what /info said is believed
NO_EXAMPLE = "a text of your own"


@st.cache_data(ttl=STATE_S, max_entries=16, show_spinner=False)
def info_of(url: str, api_key: str) -> Info:
    """Model and limits. Raises ClientError."""
    with Client(url, api_key=api_key, retry=NEVER, timeout_s=5) as client:
        return client.info()


def main() -> None:
    st.set_page_config("GPT-2 text classifier", layout="centered", initial_sidebar_state="auto")
    st.header("What is this text about?", anchor=False)
    url, api_key = sidebar()
    lone, many, model = st.tabs(["A text", "A file", "The model"])
    with lone:
        classify_tab(url, api_key)
    with many:
        file_tab(url, api_key)
    with model:
        model_tab(url, api_key)


def fail(error: ClientError) -> None:
    title, what = trouble(error)
    st.error(f"**{title}.** {what}")


def sidebar() -> tuple[str, str]:
    """Where the service is, and the key. The configured key goes to the configured address only."""
    settings = load_settings()
    url, api_key = settings.url, settings.api_key
    with st.sidebar:
        st.header("Service")
        if not settings.fixed:
            kind = st.radio("Where", ["HTTP", "SageMaker endpoint"], index=int(url.startswith("sagemaker:")))
            if kind == "HTTP":
                given = "" if url.startswith("sagemaker:") else url
                url = st.text_input("Address", given, placeholder="http://localhost:8080").strip() or url
                entered = st.text_input("API key", type="password", help="Only if the service wants one.").strip()
                api_key = entered or (api_key if url == settings.url else "")
            else:
                url = endpoint(url)
        state(url, api_key)
        if st.button("Look again", help="Ask the service once more how it is."):
            info_of.clear()
            st.rerun()
    return url, api_key


def endpoint(url: str) -> str:
    """A SageMaker endpoint's address. Credentials are those of the machine that the page runs on."""
    name, _, query = url.removeprefix("sagemaker://").partition("?") if url.startswith("sagemaker:") else ("", "", "")
    name = st.text_input("Endpoint", name).strip()
    region = st.text_input("Region", query.removeprefix("region="), help="Empty: the machine's own.").strip()
    return f"sagemaker://{name}" + (f"?region={region}" if region else "")


def state(url: str, api_key: str) -> None:
    """One line: how the service is."""
    try:
        info = info_of(url, api_key)
    except Unsupported:
        st.info("An endpoint does not tell how it is: ask it something.")
    except ClientError as exc:
        st.error(trouble(exc)[0])
    else:
        st.success(f"Ready: {plain(info.model.name)}, version {plain(info.model.version)}")


def take_example() -> None:
    chosen = st.session_state["example"]
    if chosen in EXAMPLES:
        st.session_state["text"] = EXAMPLES[chosen]
    st.session_state.pop("answer", None)


def classify_tab(url: str, api_key: str) -> None:
    st.selectbox("Start from", [NO_EXAMPLE, *EXAMPLES], key="example", on_change=take_example)
    with st.form("lone", border=False):
        text = st.text_area("The text", key="text", height=220, placeholder=PLACEHOLDER, label_visibility="collapsed")
        explain = st.checkbox("Show what each sentence did", value=True)
        asked = st.form_submit_button("Classify", type="primary")
    if asked:
        st.session_state.pop("answer", None)
        if text.strip():
            ask(url, api_key, text, explain)
        else:
            st.info("Type or paste a text, or choose an example above.")
    if "answer" in st.session_state:
        answer(*st.session_state["answer"])


def ask(url: str, api_key: str, text: str, explain: bool) -> None:
    """Keep the answer for this and the next runs of the page."""
    explanation, why_not = None, ""
    try:
        with Client(url, api_key=api_key, retry=IMPATIENT) as client:
            began = time.perf_counter()
            with st.spinner("Reading"):
                prediction = client.predict(text)
            seconds = time.perf_counter() - began
            if explain:
                explanation, why_not = ask_why(client, text)
    except ClientError as exc:
        fail(exc)
        return
    st.session_state["answer"] = (text, prediction, seconds, explanation, why_not)


def ask_why(client: Client, text: str) -> tuple[Explanation | None, str]:
    """The explanation, or Markdown that says why there is none."""
    try:
        with st.spinner("Leaving out one sentence after the other"):
            return client.predict(text, explain=True, timeout_ms=EXPLAIN_MS).explanation, ""
    except ClientError as exc:
        return None, f"What each sentence did is not known. {trouble(exc)[1]}"


def answer(text: str, prediction: Prediction, seconds: float, explanation: Explanation | None, why_not: str) -> None:
    mark = " · unsure" if prediction.unsure else ""
    st.subheader(f"{plain(prediction.label)}{mark}", anchor=False)
    for note in notes(text, prediction):
        st.warning(plain(note))
    st.html(bars(prediction.scores))
    figures = reading(prediction, seconds)
    st.html(small(" · ".join(f"{name}: {value}" for name, value in figures)))
    if explanation is not None:
        st.subheader("What each sentence did", anchor=False)
        st.html(coloured(text, explanation))
        st.html(small(explained(explanation)))
        with st.expander("As a table"):
            st.dataframe(
                sentence_rows(text, explanation),
                hide_index=True,
                column_config={
                    "left out": st.column_config.NumberColumn("if left out", format="%+.2f"),
                    "alone": st.column_config.NumberColumn("by itself", format="%+.2f"),
                },
            )
    elif why_not:
        st.info(why_not)


def file_tab(url: str, api_key: str) -> None:
    uploaded = st.file_uploader("A file with a text a row", type=list(TYPES), key="upload")
    if uploaded is None:
        st.html(small("CSV, TSV, JSON Lines or Parquet, with named columns. Rows without an answer keep their place."))
        st.session_state.pop("file", None)
        return
    if st.session_state.get("file", {}).get("id") != uploaded.file_id:
        directory = tempfile.TemporaryDirectory(prefix="page-")  # ends with the session
        path = Path(directory.name) / f"upload{Path(uploaded.name).suffix.lower()}"
        path.write_bytes(uploaded.getbuffer())
        st.session_state["file"] = {"id": uploaded.file_id, "directory": directory, "path": path}
    kept = st.session_state["file"]
    try:
        columns = columns_of(kept["path"])
        column = st.selectbox("Column with the texts", columns, index=likely_column(columns))
        if st.button("Classify the file", type="primary"):
            kept["shown"] = work(kept["path"], column, url, api_key)
    except ClientError as exc:
        fail(exc)
        return
    if "shown" in kept:
        labelled(kept["shown"], uploaded.name)


def work(path: Path, column: str, url: str, api_key: str) -> Shown:
    """Classify, with a bar that tells how far it is. Raises ClientError."""
    bar = st.progress(0.0, "Starting")

    def tell(rows: int, share: float, seconds: float) -> None:
        bar.progress(share, pace(rows, share, seconds))

    summary, output = classify_file(path, column, url, api_key, tell)
    bar.empty()
    return shown(summary, output, column, prefix_for(columns_of(path)))


def labelled(found: Shown, name: str) -> None:
    summary = found.summary
    failed = sum(summary.failed.values())
    st.markdown(f"**{summary.rows:,} rows** in {summary.seconds:.1f} s; {summary.unsure:,} unsure, {failed:,} failed.")
    with found.output.open("rb") as file:
        st.download_button("Download the labelled file", file, f"labelled-{name}", type="primary")
    if found.labels:
        st.bar_chart(dict(found.labels.most_common()), horizontal=True, x_label="", y_label="rows")
    labels = st.multiselect("Labels", sorted(found.labels), placeholder="all")
    only = st.radio("Rows", ["all", "unsure", "failed"], horizontal=True)
    least = st.slider("Probability at least", 0.0, 1.0, 0.0, 0.05)
    rows = found.filtered(labels, only, least)
    st.html(small(f"{len(rows):,} rows" + (f" of the first {MOST_ROWS:,}" if summary.rows > MOST_ROWS else "")))
    st.dataframe(rows, hide_index=True, height=320)


def model_tab(url: str, api_key: str) -> None:
    try:
        info = info_of(url, api_key)
    except ClientError as exc:
        fail(exc)
        return
    model = info.model
    st.markdown(f"**{plain(model.name)}**, version {plain(model.version)}; service {plain(info.service)}")
    st.markdown("Labels: " + ", ".join(plain(label) for label in model.labels))
    measured = (model.model_extra or {}).get("metrics") or {}
    if "accuracy" in measured:
        quality(measured)
    st.subheader("Facts and limits", anchor=False)
    st.dataframe(
        [{"what": name, "value": value} for name, value in facts(info).items()], hide_index=True, height="content"
    )


def quality(measured: dict[str, Any]) -> None:
    """Accuracy, and how far the probabilities can be trusted."""
    left, right = st.columns(2)
    low, high = measured.get("intervals", {}).get("accuracy", (None, None))
    within = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %" if low is not None else ""
    left.metric("Accuracy on texts it never saw", f"{100 * measured['accuracy']:.1f} %", help=within or None)
    left.html(small(f"{measured.get('rows', 0):,} texts. {within}"))
    if "baseline" in measured:
        baseline = measured["baseline"]
        right.metric(plain(baseline["model"]), f"{100 * baseline['accuracy']:.1f} %", help="The same texts.")
    curve = measured.get("reliability")
    if curve:
        st.subheader("Is 90 % sure right nine times of ten?", anchor=False)
        st.vega_lite_chart(curve, calibration_picture(), width="stretch")
        error = measured.get("calibration", {}).get("ece")
        told = "On the line, probabilities are what they say; larger dots stand for more texts." + (
            f" Expected calibration error: {100 * error:.1f} %." if error is not None else ""
        )
        st.html(small(told))


main()
