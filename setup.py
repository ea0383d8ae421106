"""What pyproject.toml cannot say: a wheel holds the files of a working directory (`proxykv init`).

`baselines/` is among them and not a separate package, so that no installation claims that name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WORKING_DIRECTORY = (
    "CITATION.cff",
    "Snakefile",
    "baselines",
    "config",
    "config.yaml",
    "models",
    "results/README.md",
    "slurm",
    "workflow",
)


class WithWorkingDirectory(build_py):
    """Copies the files of a working directory to `proxykv/starter`."""

    def run(self) -> None:
        """Build; an editable installation uses the checkout."""
        super().run()
        if self.editable_mode:
            return
        starter = Path(self.build_lib) / "proxykv" / "starter"
        shutil.rmtree(starter, ignore_errors=True)
        for name in WORKING_DIRECTORY:
            (starter / name).parent.mkdir(parents=True, exist_ok=True)
            if Path(name).is_dir():
                shutil.copytree(name, starter / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(name, starter / name)


setup(cmdclass={"build_py": WithWorkingDirectory})
