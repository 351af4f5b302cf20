"""Hydra configuration that users add with ``hydra.searchpath=[pkg://verl_ext.config]``."""
