"""The model on the page: its facts, its limits, and the picture of its calibration. No Streamlit in here."""

from typing import Any

from client.models import Info


def facts(info: Info) -> dict[str, str]:
    """Return names and values of what `/info` tells: the model's, then the service's limits."""
    model, more = info.model, info.model.model_extra or {}
    found = {
        "parameters": _number(more.get("parameters")),
        "tokens read at once": _number(model.max_tokens),
        "longer texts": "read in overlapping windows" if model.on_long == "windows" else model.on_long,
        "precision": model.precision,
        "tokens in a batch": _number(more.get("max_batch_tokens")),
        **_calibration(more.get("calibration", {}).get("points", [])),
        **{name.replace("_", " "): _number(value) for name, value in info.limits},
    }
    return {name: value for name, value in found.items() if value}


def _calibration(points: list[dict[str, Any]]) -> dict[str, str]:
    """Return temperature and threshold by the tokens read, a line for each."""
    if not points:
        return {}
    known = any(point["unsure_below"] is not None for point in points)
    found = {"temperature": _by_tokens(points, "temperature", "")}
    return found | {"unsure below": _by_tokens(points, "unsure_below", "always") if known else "no threshold is known"}


def _by_tokens(points: list[dict[str, Any]], name: str, unknown: str) -> str:
    values = (unknown if point[name] is None else f"{point[name]:.3f}" for point in points)
    return ", ".join(f"{value} at {point['tokens']:,}" for value, point in zip(values, points, strict=True)) + " tokens"


def input_note(info: Info) -> str:
    """Return what a text was in training and in the figures; "" if the service does not know."""
    made_of = (info.model.model_extra or {}).get("input")
    if not made_of:
        return ""
    return f"In training and in these figures a text was: {made_of}. For other texts the figures promise nothing."


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else ""


def calibration_picture() -> dict[str, Any]:
    """Return Vega-Lite: the share of right answers over the probability that the model gave, a dot a bin."""
    axis = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": {"format": "%"}}
    dots = {
        "x": {"field": "confidence", "title": "probability that the model gave", **axis},
        "y": {"field": "right", "title": "right answers", **axis},
        "size": {"field": "rows", "type": "quantitative", "title": "texts", "scale": {"range": [40, 600]}},
        "tooltip": [{"field": name, "format": ".3~g"} for name in ("confidence", "right", "rows")],
    }
    diagonal = {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": "gray"},
        "encoding": {"x": {"field": "x", **axis}, "y": {"field": "y", **axis}},
    }
    return {"height": 300, "layer": [diagonal, {"mark": {"type": "circle", "opacity": 0.9}, "encoding": dots}]}
