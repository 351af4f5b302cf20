"""Train with SPRO: ``python -m recipe.spro.main_spro <hydra overrides>``.

The same run as ``python -m verl.trainer.main_ppo`` with the plugin loaded, on top of
``config/spro_trainer.yaml``. Any override of verl's works.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from verl_ext import cpu

# Of this recipe, and of the other method that `+method=prime` chooses.
PLUGINS = ("recipe.spro.plugin", "recipe.prime_v1.plugin")

_VARIABLE = "VERL_USE_EXTERNAL_MODULES"


def _with_plugins(modules: str) -> str:
    """The comma-separated modules, with the plugins among them."""
    names = [name for name in modules.split(",") if name]
    return ",".join([*names, *(plugin for plugin in PLUGINS if plugin not in names)])


def _ask_for_the_cpu_stack() -> None:
    """verl_ext.cpu acts only where there is no accelerator."""
    if sign := cpu.accelerator():
        sys.exit(f"configuration error: +stack=cpu is for machines without an accelerator, and this one has {sign}.")
    os.environ.setdefault("VERL_PLATFORM", "cpu")


def prepare_environment(overrides: list[str]) -> None:
    """What must be set before verl is imported: the plugins, and the stack that the overrides ask for."""
    if cpu.is_asked_for(overrides):
        _ask_for_the_cpu_stack()
    # `import verl` loads the plugins here and in every process that inherits this environment.
    os.environ[_VARIABLE] = _with_plugins(os.environ.get(_VARIABLE, ""))


def forward_plugins_to_other_nodes(config: Any) -> None:
    """Have Ray set the variable for its workers, which inherit this process's environment on this node only."""
    from omegaconf import OmegaConf

    key = f"ray_kwargs.ray_init.runtime_env.env_vars.{_VARIABLE}"
    asked = OmegaConf.select(config, key) or os.environ[_VARIABLE]
    OmegaConf.update(config, key, _with_plugins(asked), force_add=True)


def main() -> None:
    """Compose the configuration and hand it to verl's own entry, which checks it and trains."""
    prepare_environment(sys.argv)

    # After the environment is set: verl reads it when it is imported.
    import hydra
    from verl.trainer import main_ppo

    @hydra.main(config_path="config", config_name="spro_trainer", version_base=None)
    def run(config: Any) -> None:
        forward_plugins_to_other_nodes(config)
        # verl's entry without its own hydra.main around it.
        main_ppo.main.__wrapped__(config)

    run()


if __name__ == "__main__":
    main()
