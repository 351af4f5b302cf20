"""The model that the tests of verl_ext use."""

from tests.verl_ext.conftest import model_folder  # noqa: F401 (a fixture)
