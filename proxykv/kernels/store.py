"""Write new tokens into slots, at an index that lives on the device."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from proxykv.kernels.layout import Place, Slots


def store(
    keys: Float[Tensor, "row kv_head new dim"],
    values: Float[Tensor, "row kv_head new dim"],
    slots: Slots,
    place: Place,
) -> None:
    """Write new tokens' keys and values into their slots, which have room for them.

    Args:
        keys: keys of the new tokens, after RoPE.
        values: their values.
        slots: the layer's slots.
        place: where the new tokens go in the slots.
    """
    if place.table is not None:
        from proxykv.kernels.gpu.store import write  # noqa: PLC0415 (needs Triton)

        write(keys, values, slots, place)
    else:
        end = place.before + keys.shape[2]
        slots.keys[:, :, place.before : end] = keys
        slots.values[:, :, place.before : end] = values
