"""The state of a training run on disk: a killed run continues with the same numbers."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from proxykv.mapper import tensor_file
from proxykv.mapper.training.loop import Best, TrainingState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A folder that holds the state of one training run.

    Attributes:
        folder: made by the first `save`.
        run: digest of all that decides the run's numbers; states of other runs are ignored.
    """

    folder: Path
    run: str

    @property
    def _file(self) -> Path:
        return self.folder / "state.safetensors"

    def save(self, state: TrainingState) -> None:
        """Write the state, atomically."""
        moments = state.optimizer.state_dict()["state"]
        groups: dict[str, Mapping[str, Tensor]] = {
            "module": state.module.state_dict(),
            "best": state.best_weights,
            "optimizer": {f"{i}.{k}": v for i, part in moments.items() for k, v in part.items()},
        }
        best = json.dumps(asdict(state.best))
        tensor_file.save_groups(
            self._file, groups, {"step": str(state.step), "best": best, "run": self.run}
        )

    def restore(self, state: TrainingState, device: str) -> None:
        """Set `state` to what was saved; leave it if this run saved nothing.

        A state of another run is named in the log.

        Args:
            state: of a run that has not begun; it is changed in place.
            device: where its module is trained.
        """
        metadata = tensor_file.read_metadata(self._file)
        if not metadata:
            return
        if metadata.get("run") != self.run:
            log.info("%s: of other settings, data or code; training starts at step 1", self.folder)
            return
        groups = tensor_file.read_groups(self._file, device)
        state.step = int(metadata["step"])
        state.best = Best(**json.loads(metadata["best"]))
        state.module.load_state_dict(groups["module"])
        state.best_weights = groups["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
        parameters = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": parameters})

    def remove(self) -> None:
        """Delete the folder, if there is one."""
        shutil.rmtree(self.folder, ignore_errors=True)
