"""Labelled examples from directories: a folder a label, or data files of any of the formats, all of them one part."""

from pathlib import Path

from training.data.read import SUFFIXES, Columns, Example, decode, read_examples
from training.errors import DataError, Problem


def read_folder(path: Path, columns: Columns | None = None, *, encoding: str = "utf-8") -> list[Example]:
    """Read all data files of a directory and its folders, in the order of their names; or a folder a label.

    Args:
        path: the directory. Names that begin with a dot or an underscore (`_SUCCESS`) are passed over.
        columns: the columns to read, looked for in each file by itself.
        encoding: of text files.

    Raises:
        DataError: with every problem of every file; files of unknown format are problems, too, for they may be data.
    """
    if class_files(path) and not data_files(path):
        return read_class_folders(path, encoding=encoding)
    examples: list[Example] = []
    problems: list[Problem] = []
    files = _visible_files(path)
    if not files:
        raise DataError([Problem(str(path), 0, 0, "", "no files in this directory")])
    for file in files:
        try:
            examples += read_examples(file, columns, encoding=encoding)
        except DataError as exc:
            problems += exc.problems
    if problems:
        raise DataError(problems)
    return examples


def data_files(path: Path) -> list[Path]:
    """Files of a directory and its folders whose suffix names a format."""
    return [file for file in _visible_files(path) if file.suffix.lower() in SUFFIXES]


def _visible_files(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )


def read_class_folders(path: Path, *, encoding: str = "utf-8") -> list[Example]:
    """Read a directory with a folder a label and a text file an example, as the BBC archive is laid out.

    Args:
        path: its folders' names are the labels; `.txt` files in them are the texts, in the order of their names.
        encoding: of the files.

    Raises:
        DataError: with every problem of every file.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for file in class_files(path):
        try:
            text = decode(file, encoding)
        except DataError as exc:
            problems += exc.problems
            continue
        if text.strip():
            examples.append(Example(text, file.parent.name, None, len(examples) + 1))
        else:
            problems.append(Problem(str(file), 0, 0, "", "the text is empty"))
    if problems:
        raise DataError(problems)
    return examples


def class_files(path: Path) -> list[Path]:
    """Text files of a directory's folders; hidden ones are the system's."""
    return sorted(
        file
        for file in path.glob("*/*.txt")
        if file.is_file() and not file.name.startswith(".") and not file.parent.name.startswith((".", "__"))
    )
