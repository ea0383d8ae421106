"""Compile Triton kernels for GPUs that are not there, as their launchers would have them.

Runs in a separate process: Triton's interpreter must be off, and Triton gets a driver that only
knows which GPU it would have.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

SHARED = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024}
"""Shared memory of a block in bytes, by compute capability (CUDA C++ Programming Guide)."""


class Compiled(NamedTuple):
    """A kernel in machine code.

    Attributes:
        name: of its function.
        registers: of a thread.
        spilled: bytes of a thread's stack, where registers that do not fit go.
        shared: bytes of shared memory.
    """

    name: str
    registers: int
    spilled: int
    shared: int


@contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Compile what is launched inside, on CPU tensors, instead of running it.

    Args:
        capability: of the GPU: 80 for sm_80.

    Yields:
        The kernels so far; each is in it once.
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        """As much of a driver as compiling needs."""

        def get_current_device(self) -> int:
            return capability

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

        def get_device_capability(self, device: int = 0) -> tuple[int, int]:
            return divmod(capability, 10)

    found: list[Compiled] = []
    known: set[int] = set()

    def launcher(self: Any, grid: Any) -> Callable[..., None]:
        def compile(*args: Any, **kwargs: Any) -> None:
            kernel = self.run(*args, grid=grid, warmup=True, **kwargs)
            if id(kernel) not in known:
                known.add(id(kernel))
                found.append(Compiled(self.__name__, *_usage(kernel), kernel.metadata.shared))

        return compile

    launch: Any = JITFunction.__getitem__
    stand_in: Any = Driver()
    driver.set_active(stand_in)  # permanently: without a GPU there is no driver to restore
    JITFunction.__getitem__ = launcher  # type: ignore[method-assign]
    try:
        yield found
    finally:
        JITFunction.__getitem__ = launch


def _usage(kernel: Any) -> tuple[int, int]:
    """Registers and stack of a thread."""
    import triton

    cuobjdump = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        report = subprocess.run(
            [cuobjdump, "-res-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    found = {what: int(number) for what, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return found["REG"], found["STACK"] + found["LOCAL"]
