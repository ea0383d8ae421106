"""Linear layers that are fast for the few rows of a decoding step on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

FEW = range(4, 65)
"""Rows for which weight x input was measured faster than input x weight, up to twice."""


class FewRowsLinear(nn.Linear):
    """`nn.Linear`, with the product turned round for a few rows.

    Decoding the rows of a sweep multiplies 4 to 64 vectors with every weight. BLAS libraries give
    such a product far less than memory allows unless the long side is the left one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`input` [..., in] to [..., out]."""
        rows = input.numel() // self.in_features
        if rows not in FEW:
            return super().forward(input)
        out = (self.weight @ input.reshape(rows, -1).mT).mT.contiguous()
        if self.bias is not None:
            out += self.bias
        return out.view(*input.shape[:-1], self.out_features)


def for_few_rows(net: nn.Module) -> None:
    """Put `FewRowsLinear`, with the same parameters, in place of a network's linear layers."""
    linears = [(n, m) for n, m in net.named_modules() if type(m) is nn.Linear]
    for name, linear in linears:
        sizes = linear.in_features, linear.out_features
        few = FewRowsLinear(*sizes, bias=linear.bias is not None, device="meta")
        few.weight, few.bias = linear.weight, linear.bias
        net.set_submodule(name, few.train(linear.training))
