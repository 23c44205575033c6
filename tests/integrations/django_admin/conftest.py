"""Django with its admin, over each kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integrations.django_admin.helpers import configured
from tests.integrations.django_admin_site import SETTINGS

# isort: split
from django.core.checks.registry import registry
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from basicauth_mw import Backend


@pytest.fixture(scope="module", autouse=True)
def _admin() -> Iterator[None]:
    known = registry.registered_checks.copy(), registry.deployment_checks.copy()
    with override_settings(**SETTINGS):
        call_command("migrate", verbosity=0)
        yield
        connection.close()
    # The installed apps have registered checks, which fail without these apps.
    registry.registered_checks, registry.deployment_checks = known


@pytest.fixture(params=["sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """Each kind of store."""
    sqlite = request.param == "sqlite"
    with configured(
        f"sqlite:///{tmp_path}/keys.db" if sqlite else request.getfixturevalue("redis_url")
    ) as backend:
        yield backend


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Backend]:
    """SQLite, for what does not depend on the store."""
    with configured(f"sqlite:///{tmp_path}/keys.db") as backend:
        yield backend
