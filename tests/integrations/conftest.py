"""The same backend, key and empty environment as in tests/shells."""

from tests.shells.conftest import _no_settings_in_the_environment as _no_settings_in_the_environment
from tests.shells.conftest import backend as backend
from tests.shells.conftest import issued as issued
