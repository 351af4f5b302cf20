"""What is looked at: overrides, the configuration that they make, and the hardware that they are for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext import cpu
from verl_ext.preflight import data_files


@dataclass(frozen=True)
class Subject:
    """One run that was not started.

    Attributes:
        overrides: as Hydra gets them.
        config: verl's whole Hydra config.
    """

    overrides: Sequence[str]
    config: Any

    @property
    def on_cpu(self) -> bool:
        """The stack without an accelerator is asked for."""
        return cpu.is_asked_for(self.overrides)

    @property
    def workers_are_here(self) -> bool:
        """What is installed here is what the workers have: this machine has what the run trains on."""
        return self.on_cpu or cpu.accelerator() is not None

    @property
    def missing_files(self) -> list[tuple[str, str]]:
        """Keys and paths of local data files that are not on this machine."""
        return [(key, path) for key, path in data_files(self.config) if "://" not in path and not Path(path).is_file()]

    @property
    def model_folder(self) -> Path | None:
        """The model's folder, where it is one on this machine."""
        folder = Path(str(self.config.actor_rollout_ref.model.path)).expanduser()
        return folder if (folder / "config.json").is_file() else None

    @property
    def model_is_a_path(self) -> bool:
        """Certainly no name of the hub."""
        path = str(self.config.actor_rollout_ref.model.path)
        return path.startswith(("/", "~", ".")) or path.count("/") != 1

    def config_of_what_is_here(self) -> Any:
        """A copy in which data files and a model folder that are not on this machine are left out."""
        from omegaconf import OmegaConf, open_dict

        config = copy.deepcopy(self.config)
        missing = {path for _, path in self.missing_files}
        with open_dict(config):
            for key in {key for key, _ in self.missing_files}:
                here = [path for name, path in data_files(self.config) if name == key and path not in missing]
                OmegaConf.update(config, key, here)
            if self.model_folder is None and self.model_is_a_path:
                config.actor_rollout_ref.model.path = "not/here"
        return config
