import pytest
import torch

from classifier.errors import ModelError
from classifier.products import ProductMaker, _float32, _onednn


@pytest.mark.parametrize("activation", [None, "gelu_new", "relu"])
def test_products_in_onednns_own_layout_equal_plain_ones(activation: str | None) -> None:
    """The layout that bfloat16 takes where the processor has it, here in float32, which every processor has."""
    torch.manual_seed(0)
    weight_io, bias_o, rows = torch.randn(24, 40), torch.randn(40), torch.randn(9, 24)
    with torch.inference_mode():
        one = _onednn(weight_io, bias_o, activation, False, torch.float32)(rows)
        torch.testing.assert_close(one, _float32(weight_io, bias_o, activation)(rows), atol=1e-4, rtol=1e-5)


def test_int8_is_for_cpus() -> None:
    with pytest.raises(ModelError, match="CPUs only"):
        ProductMaker("int8", torch.device("meta")).product(torch.zeros(2, 2), torch.zeros(2))
