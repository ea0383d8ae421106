"""Linear layers that are fast for the few rows of a decoding step on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

FEW = range(4, 65)
"""Numbers of rows for which weight x input was measured up to twice as fast as input x weight."""


class FewRowsLinear(nn.Linear):
    """`nn.Linear` that transposes the product for a few rows.

    Decoding the rows of a sweep multiplies 4 to 64 vectors with every weight. BLAS libraries reach
    the memory bandwidth in such a product only if the long side is the left one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map `input` [..., in] to [..., out]."""
        rows = input.numel() // self.in_features
        if rows not in FEW:
            return super().forward(input)
        out = (self.weight @ input.reshape(rows, -1).mT).mT.contiguous()
        if self.bias is not None:
            out += self.bias
        return out.view(*input.shape[:-1], self.out_features)


def for_few_rows(net: nn.Module) -> None:
    """Replace a network's linear layers by `FewRowsLinear` with the same parameters."""
    linears = [(n, m) for n, m in net.named_modules() if type(m) is nn.Linear]
    for name, linear in linears:
        sizes = linear.in_features, linear.out_features
        few = FewRowsLinear(*sizes, bias=linear.bias is not None, device="meta")
        few.weight, few.bias = linear.weight, linear.bias
        net.set_submodule(name, few.train(linear.training))
