"""Run code as another user, for tests of what users of one machine do to each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from proxykv.config import catalog

NOBODY = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start another user's code")


def start(imports: str, code: str, uid: int = NOBODY) -> subprocess.Popen[str]:
    """Start Python code as a user, with pipes; `imports` run before the user changes."""
    become = f"import os; os.setgroups([]); os.setgid({uid}); os.setuid({uid})"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([imports, become, code])],
        cwd=catalog.ROOT,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
    )
