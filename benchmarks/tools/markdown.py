"""Markdown tables."""

from collections.abc import Sequence

Cell = str | float | int | None


def number(value: float | int | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and commas between thousands; "-" for None and NaN."""
    if value is None or value != value:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1) or float(value).is_integer():
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{digits}g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table with a first column of text and right-aligned other columns.

    Raises:
        ValueError: a row is not as wide as the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"{len(row)} cells for {len(head)} columns: {list(row)}")
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)]]
    lines += [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]
    # a bar inside a cell would begin another one
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
