"""The Django app, which registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from .checks import check_deployment, check_settings


class BasicAuthConfig(AppConfig):
    """``basicauth_mw.integrations.django`` in ``INSTALLED_APPS``."""

    name = "basicauth_mw.integrations.django"
    label = "basicauth_mw"
    verbose_name = "API keys"

    def ready(self) -> None:
        """Register the system checks."""
        register(check_settings, Tags.security)
        register(check_deployment, Tags.security, deploy=True)
