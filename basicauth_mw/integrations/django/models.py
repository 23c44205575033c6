"""The model of the admin section. It has no table: keys are in the store of ``BASICAUTH_BACKEND``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.db import models
from django.utils import timezone

from ...keys import lifecycle
from ...keys.escaping import escape_control
from ...keys.model import Key, utcnow

if TYPE_CHECKING:
    from ...backends.backend import Issued


class EmptyManager(models.Manager["ApiKey"]):
    """Finds nothing, so that ``dumpdata`` and others do not look for the table."""

    def get_queryset(self) -> models.QuerySet[ApiKey]:
        return super().get_queryset().none()


class ApiKey(models.Model):
    """A key for Django's forms; Django's permissions for keys are those of this model.

    Attributes:
        key: The key as it was read.
        problem: Why its record cannot be read; otherwise empty.
        issued: The new secret, only in the response that shows it.
    """

    client_id: Any = models.CharField("client ID", max_length=255, primary_key=True)
    # The store limits names to 200 characters; the form shows each invisible one as up to ten.
    name: Any = models.CharField(max_length=2000, blank=True)
    scopes: Any = models.CharField(max_length=26_000, blank=True, help_text="Separated by spaces.")
    expires_at: Any = models.DateTimeField("expires", null=True, blank=True)

    key = Key("")
    problem = ""
    issued: Issued | None = None

    objects = EmptyManager()

    class Meta:
        managed = False
        base_manager_name = "objects"
        verbose_name = "API key"

    @classmethod
    def of(cls, key: Key, problem: str = "") -> Self:
        """The instance for a key. Without ``USE_TZ``, forms need times without a time zone."""
        expires_at = key.expires_at
        if expires_at and not settings.USE_TZ:
            expires_at = timezone.make_naive(expires_at)
        name, scopes = map(escape_control, (key.name, " ".join(sorted(key.scopes))))
        instance = cls(key.client_id, name, scopes, expires_at)
        instance.key, instance.problem = key, problem
        return instance

    @property
    def state(self) -> str:
        """Whether the key works, in one word if its record can be read."""
        return self.problem or lifecycle.state_of(self.key, utcnow())

    def __str__(self) -> str:
        return escape_control(self.name or self.client_id)
