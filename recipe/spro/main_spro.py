"""Train with SPRO: ``python -m recipe.spro.main_spro <hydra overrides>``.

The same run as ``python -m verl.trainer.main_ppo`` with the plugin loaded, on top of
``config/spro_trainer.yaml``. Any override of verl's works.
"""

from __future__ import annotations

import os
import sys
from typing import Any

PLUGIN = "recipe.spro.plugin"


def _load_plugin_everywhere() -> None:
    """Have `import verl` load the plugin here and in every process that inherits this environment."""
    modules = [name for name in os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",") if name]
    if PLUGIN not in modules:
        os.environ["VERL_USE_EXTERNAL_MODULES"] = ",".join([*modules, PLUGIN])


def _forward_plugin_to_other_nodes(config: Any) -> None:
    """Have Ray set the variable for its workers, which inherit this process's environment on this node only."""
    from omegaconf import OmegaConf

    key = "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES"
    OmegaConf.update(config, key, os.environ["VERL_USE_EXTERNAL_MODULES"], force_add=True)


def main() -> None:
    """Compose the configuration, check it, and run verl's trainer."""
    if "+stack=cpu" in sys.argv:
        os.environ.setdefault("VERL_PLATFORM", "cpu")
    _load_plugin_everywhere()

    # After the environment is set: verl reads it when it is imported.
    import hydra
    from verl.trainer import main_ppo

    from verl_ext import resume

    @hydra.main(config_path="config", config_name="spro_trainer", version_base=None)
    def run(config: Any) -> None:
        main_ppo.auto_set_device(config)
        main_ppo.validate_config(
            config=config,
            use_reference_policy=main_ppo.need_reference_policy(config),
            use_critic=main_ppo.need_critic(config),
        )
        resume.align(config)
        _forward_plugin_to_other_nodes(config)
        main_ppo.run_ppo(config, task_runner_class=main_ppo.TaskRunnerV1)

    run()


if __name__ == "__main__":
    main()
