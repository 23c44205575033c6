"""Permissions of Django: who sees and changes keys in the admin."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integrations.django_admin.helpers import ACTIONS, URL, Visitor, key_of, registered

# isort: split
from django.apps import apps
from django.core.management import call_command
from django.db import connection

if TYPE_CHECKING:
    from pathlib import Path

    from basicauth_mw import Backend

# --- the model


def test_migrate_creates_the_permissions_and_no_table() -> None:
    from django.contrib.auth.models import Permission

    found = Permission.objects.filter(content_type__app_label="basicauth_mw")
    assert sorted(found.values_list("codename", flat=True)) == [
        f"{each}_apikey" for each in ("add", "change", "delete", "view")
    ]
    assert not [name for name in connection.introspection.table_names() if "apikey" in name]


@pytest.mark.usefixtures("sqlite")
def test_commands_of_django_do_not_notice_the_model(tmp_path: Path) -> None:
    """No migration to make, no table to create, dump or flush, and no finding of its checks."""
    output = io.StringIO()

    call_command("makemigrations", check=True, dry_run=True, stdout=output)
    call_command("makemigrations", interactive=False, dry_run=True, stdout=output)
    assert set(output.getvalue().splitlines()) == {"No changes detected"}
    call_command("migrate", run_syncdb=True, verbosity=0)
    call_command("dumpdata", "basicauth_mw", stdout=output)
    call_command("dumpdata", use_base_manager=True, output=str(tmp_path / "dump.json"))
    call_command("remove_stale_contenttypes", interactive=False, stdout=output)
    call_command("check", stdout=output)
    assert "no issues" in output.getvalue()
    assert list(apps.get_model("basicauth_mw", "ApiKey").objects.all()) == []
    assert not [name for name in connection.introspection.table_names() if "apikey" in name]


# --- permissions


def status_of_each(visitor: Visitor) -> dict[str, int]:
    """The status of each page, and of each form that is submitted without opening it."""
    found = {"list": visitor.get().status_code, "add": visitor.get("add/").status_code}
    for page in ("change", "history", "delete", *ACTIONS):
        found[page] = visitor.get(f"ci/{page}/").status_code
    for page in ("add/", "ci/change/", "ci/delete/", *(f"ci/{each}/" for each in ACTIONS)):
        found[f"POST {page}"] = visitor.post(page, post="yes", version="0", overlap="0").status_code
    return found


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ("none", ""),
        ("view", "list change history"),
        ("add", "add POST:add/"),
        (
            "change",
            " ".join(
                [
                    "list change history",
                    *ACTIONS,
                    "POST:ci/change/",
                    *(f"POST:ci/{each}/" for each in ACTIONS),
                ]
            ),
        ),
        ("delete", "delete POST:ci/delete/"),
    ],
)
def test_permissions(permissions: str, allowed: str, sqlite: Backend) -> None:
    """Each permission of Django allows its own pages and forms, and all others are a 403."""
    sqlite.create(client_id="ci")
    before = key_of(sqlite, "ci")

    found = status_of_each(Visitor(f"user-{permissions}", permissions))

    assert {name.replace(" ", ":") for name, status in found.items() if status != 403} == set(allowed.split())
    after = sqlite.get("ci")
    if permissions == "change":  # a page that is out of date can disable and revoke, and nothing else
        assert after is not None
        assert (after.disabled, after.revoked_at is not None) == (True, True)
        assert after == replace(before, disabled=True, revoked_at=after.revoked_at)
    else:
        assert after == (None if permissions == "delete" else before)


@pytest.mark.parametrize("is_staff", [False, None])
def test_others_are_sent_to_the_sign_in(is_staff: bool | None, sqlite: Backend) -> None:
    """Users who are not staff, and visitors who are not signed in."""
    sqlite.create(client_id="ci")
    visitor = Visitor("outsider")
    visitor.user.is_staff = False
    visitor.user.save()
    if is_staff is None:
        visitor.client.logout()

    assert set(status_of_each(visitor).values()) == {302}
    assert "/admin/login/" in visitor.get("add/")["Location"]
    assert key_of(sqlite, "ci").disabled is False


def test_forms_need_a_csrf_token(sqlite: Backend) -> None:
    sqlite.create(client_id="ci")
    visitor = Visitor()
    visitor.client.handler.enforce_csrf_checks = True

    for page in ("add/", "ci/change/", "ci/delete/", *(f"ci/{each}/" for each in ACTIONS)):
        assert visitor.post(page, post="yes").status_code == 403, page
    assert len(list(sqlite.iter_keys())) == 1


def test_buttons_are_only_shown_to_those_who_may_use_them(sqlite: Backend) -> None:
    sqlite.create(client_id="ci")

    reader = Visitor("reader", "view").get("ci/change/").content.decode()
    writer = Visitor("writer", "view", "change").get("ci/change/").content.decode()
    deleter = Visitor("deleter", "view", "delete").get("ci/change/").content.decode()

    def offered(page: str) -> list[str]:
        names = [*ACTIONS, "delete"]
        return [each for each in names if f'href="../{each}/"' in page or f"/{each}/" in page]

    assert offered(reader) == []
    assert offered(writer) == ["rotate", "end-secret", "disable", "revoke"]
    assert offered(deleter) == ["delete"]
    assert ("_save" in reader, "_save" in writer) == (False, True)
    assert f"{URL}add/" not in Visitor("reader", "view").get().content.decode()


def test_a_subclass_may_decide_by_key(sqlite: Backend) -> None:
    """A key that a user may not change has no form for any action, and none that is submitted is accepted."""
    from basicauth_mw.integrations.django.admin import ApiKeyAdmin

    class ByKey(ApiKeyAdmin):
        def has_change_permission(self, request: Any, obj: Any = None) -> bool:
            return super().has_change_permission(request, obj) and (obj is None or obj.pk != "theirs")

        def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
            return super().has_delete_permission(request, obj) and (obj is None or obj.pk != "theirs")

    sqlite.create(client_id="ours")
    sqlite.create(client_id="theirs")
    with registered(ByKey):
        visitor = Visitor()
        for disabled in (False, True):
            key = sqlite.disable("theirs") if disabled else key_of(sqlite, "theirs")
            fields = {
                "version": str(key.version),
                "overlap": "0",
                "secret": key.secrets[0].created_at.isoformat(),
            }
            for page in ("delete", *ACTIONS):
                assert visitor.get(f"theirs/{page}/").status_code == 403, page
                assert visitor.post(f"theirs/{page}/", post="yes", **fields).status_code == 403, page
            assert sqlite.get("theirs") == key
        for page in ("delete", "rotate", "end-secret", "disable", "revoke"):
            assert visitor.get(f"ours/{page}/").status_code == 200, page
