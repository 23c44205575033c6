"""The same backend, key and empty environment as in tests/auth."""

from tests.auth.conftest import _no_settings_in_the_environment as _no_settings_in_the_environment
from tests.auth.conftest import backend as backend
from tests.auth.conftest import issued as issued
