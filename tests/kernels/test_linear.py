"""Linear layers for few rows: the same function, put in place without copying a weight."""

import pytest
import torch
from torch import nn

from proxykv.kernels.linear import for_few_rows


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (4,), (10, 1), (3, 7), (64,), (65,), (2, 2, 16)])
def test_the_same_function(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(24, 40, bias=bias)
    net = nn.Sequential(linear)
    for_few_rows(net)
    x = torch.randn(*shape, 24)
    out = net(x)
    torch.testing.assert_close(out, linear(x))
    assert out.is_contiguous()


def test_parameters_stay_the_ones_that_were_there() -> None:
    net = nn.ModuleDict({"embedding": nn.Embedding(8, 4), "head": nn.Linear(4, 8, bias=False)})
    net["head"].weight = net["embedding"].weight
    before = dict(net.state_dict())
    for_few_rows(net)
    assert net["head"].weight is net["embedding"].weight
    assert net.state_dict().keys() == before.keys()
