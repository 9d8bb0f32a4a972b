"""The notebooks run as they are, and their committed outputs are those of a run in order without an error."""

import csv
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import ROOT
from tests.support.aws_account import account
from tests.support.service_process import ServiceProcess
from tests.support.texts import news_rows

CELL_S = 1200
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def executed(name: str, directory: Path, environment: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook of the project from its first cell to its last in a new kernel.

    Raises:
        CellExecutionError: A cell failed; the error has the cell and its output.
    """
    book: nbformat.NotebookNode = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "SM_", "MPL"))}
    paths = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(directory / "ipython"), "JUPYTER_RUNTIME_DIR": str(directory)}
    client = NotebookClient(book, timeout=CELL_S, resources={"metadata": {"path": str(directory)}})
    client.execute(env={**inherited, **paths, **environment})
    return book


def printed(book: nbformat.NotebookNode) -> str:
    """Return all that the cells printed or drew."""
    return "\n".join(json.dumps(cell.get("outputs", []), ensure_ascii=False) for cell in book.cells)


def write(path: Path, rows: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows({"text": row["text"], "label": row["label"]} for row in news_rows(rows))
    return path


def test_both_notebooks_are_there() -> None:
    assert [path.name for path in NOTEBOOKS] == ["colab.ipynb", "sagemaker.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_was_executed_in_order_and_without_a_fault(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert len(outputs) >= 6 and all(output.output_type != "error" for output in outputs)
    text = printed(book)
    assert not re.search(r"/(tmp|home|root|work|Users)/|Warning|Traceback", text)
    assert path.stat().st_size < 100_000


def test_train_evaluate_and_predict(base_model: Path, tmp_path: Path) -> None:
    settings = {
        "NOTEBOOK_DATA": str(write(tmp_path / "articles.csv", 60)),
        "NOTEBOOK_BASE": str(base_model),
        "NOTEBOOK_OUTPUT": str(tmp_path / "model"),
        "NOTEBOOK_EPOCHS": "1",
        "NOTEBOOK_TOKENS": "32",
    }
    text = printed(executed("colab.ipynb", tmp_path, settings))
    assert "accuracy" in text and "image/png" in text and "model.safetensors" in text
    assert (tmp_path / "model" / "manifest.json").is_file()


def test_the_walk_through_sagemaker(base_model: Path, default_service: ServiceProcess, tmp_path: Path) -> None:
    data = write(tmp_path / "articles.csv", 60)
    with account(default_service, tmp_path) as environment:
        settings = environment | {"NOTEBOOK_DATA": data.name, "NOTEBOOK_BASE": str(base_model)}
        text = printed(executed("sagemaker.ipynb", tmp_path, settings))
    assert "articles: InService" in text and "model.tar.gz" in text
    assert re.search(r"sport.*0\.9", text) and "the text is empty" in text
    assert "deleted" in text or "removed" in text
