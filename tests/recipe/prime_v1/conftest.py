"""The model's folder that the tests of verl_ext have."""

from tests.verl_ext.conftest import model_folder

__all__ = ["model_folder"]
