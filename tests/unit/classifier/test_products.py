from typing import Any

import pytest
import torch

from classifier import products
from classifier.errors import ModelError
from classifier.products import LAYOUTS, MatrixProduct, ProductMaker, _onednn


@pytest.mark.parametrize("activation", [None, "gelu_new", "relu"])
def test_products_in_onednns_own_layout_equal_plain_ones(activation: str | None) -> None:
    """The layout that bfloat16 takes where the processor has it, here in float32, which every processor has."""
    torch.manual_seed(0)
    weight_io, bias_o, rows = torch.randn(24, 40), torch.randn(40), torch.randn(9, 24)
    with torch.inference_mode():
        one = _onednn(weight_io, bias_o, activation, torch.float32)(rows)
        torch.testing.assert_close(one, LAYOUTS["stored"](weight_io, bias_o, activation)(rows), atol=1e-4, rtol=1e-5)


def test_int8_is_for_cpus() -> None:
    with pytest.raises(ModelError, match="CPUs only"):
        ProductMaker("int8", torch.device("meta")).product(torch.zeros(2, 2), torch.zeros(2))


@pytest.mark.parametrize("activation", [None, "gelu_new", "relu"])
def test_every_layout_of_float32_gives_the_same_product(activation: str | None) -> None:
    torch.manual_seed(0)
    weight_io, bias_o, rows = torch.randn(24, 40), torch.randn(40), torch.randn(9, 24)
    with torch.inference_mode():
        stored, packed = (LAYOUTS[name](weight_io, bias_o, activation)(rows) for name in ("stored", "onednn"))
    torch.testing.assert_close(packed, stored, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("fastest", list(LAYOUTS))
def test_each_shape_of_float32_takes_the_faster_layout_and_is_measured_once(
    fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def qualname(product: Any) -> str:
        return str(product.__qualname__)

    names = {qualname(LAYOUTS[name](torch.zeros(2, 2), torch.zeros(2), None)): name for name in LAYOUTS}

    def seconds(product: MatrixProduct, rows: torch.Tensor) -> float:
        measured.append(names[qualname(product)])
        return float(measured[-1] != fastest)

    monkeypatch.setattr(products, "_seconds", seconds)
    maker = ProductMaker("float32", torch.device("cpu"))
    for outputs in (3, 4, 3):
        made = maker.product(torch.zeros(2, outputs), torch.zeros(outputs))
        assert names[qualname(made)] == fastest
    assert maker.layouts == {(2, 3): fastest, (2, 4): fastest} and measured == [*LAYOUTS, *LAYOUTS]


@pytest.mark.parametrize("bfloat16", [True, False])
def test_what_int8_would_distort_is_computed_in_bfloat16_where_the_cpu_has_it(
    bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "has_bfloat16", lambda: bfloat16)
    product = ProductMaker("int8", torch.device("cpu")).product(torch.ones(2, 3), torch.zeros(3), exact=True)
    assert product(torch.ones(1, 2)).dtype == (torch.bfloat16 if bfloat16 else torch.float32)
