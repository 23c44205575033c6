"""The Django app, which registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.core.checks import Tags, register

from .checks import check_deployment, check_settings


class BasicAuthConfig(AppConfig):
    """``basicauth_mw.integrations.django`` in ``INSTALLED_APPS``."""

    name = "basicauth_mw.integrations.django"
    label = "basicauth_mw"
    verbose_name = "API keys"

    def ready(self) -> None:
        """Register the system checks, and the security schemes for drf-spectacular if it is installed."""
        register(check_settings, Tags.security)
        register(check_deployment, Tags.security, deploy=True)
        if apps.is_installed("drf_spectacular"):
            from . import spectacular  # noqa: F401 - importing it registers it
