"""The values that the package hands out: copied like any other, and never changed."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from basicauth_mw import Key, Principal, Secret

if TYPE_CHECKING:
    from collections.abc import Callable


class Plain(Principal):
    """A subclass without slots."""


@dataclass(frozen=True)
class Member(Principal):
    """A subclass with an additional field."""

    team: str = ""


@pytest.mark.parametrize(
    "value",
    [
        Principal("ci", "CI", frozenset({"read"}), {"team": ["a"]}),
        Principal.anonymous(),
        Plain("ci", "CI"),
        Member("ci", team="a"),
        Key("ci", secrets=(Secret("hash"),)),
        Secret("hash"),
    ],
    ids=["principal", "anonymous", "plain", "member", "key", "secret"],
)
def test_values_are_copied_and_never_changed(value: Any) -> None:
    for copied in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert copied == value
        assert type(copied) is type(value)
    for name in ("client_id", "hash", "name", "anything_else"):
        with pytest.raises(AttributeError):
            setattr(value, name, "x")
        with pytest.raises(AttributeError):
            delattr(value, name)


CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda metadata: metadata.__setitem__("team", "b"),
    "delete": lambda metadata: metadata.__delitem__("team"),
    "merge": lambda metadata: metadata.__ior__({"team": "b"}),
    "clear": lambda metadata: metadata.clear(),
    "pop": lambda metadata: metadata.pop("team"),
    "popitem": lambda metadata: metadata.popitem(),
    "setdefault": lambda metadata: metadata.setdefault("more", 1),
    "update": lambda metadata: metadata.update(more=1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("given", [{"team": "a"}, {}], ids=["some", "none"])
def test_no_request_changes_the_metadata_for_the_others(
    given: dict[str, Any], change: Callable[[Any], object]
) -> None:
    """Nor does the store that the principal came from, nor a copy of the principal."""
    principal = Principal("ci", metadata=given)
    for each in (principal, pickle.loads(pickle.dumps(principal)), copy.deepcopy(principal)):
        with pytest.raises(TypeError, match="read-only"):
            change(each.metadata)
    before = dict(given)
    given["later"] = 1

    assert principal.metadata == before
    assert Principal.anonymous().metadata == {}


def test_metadata_is_used_like_a_dict() -> None:
    metadata: Any = Principal("ci", metadata={"team": "a", "limits": [1, 2]}).metadata

    assert json.loads(json.dumps(metadata)) == dict(metadata) == {**metadata} == metadata | {}
    assert repr(metadata) == "{'team': 'a', 'limits': [1, 2]}"
    assert isinstance(metadata, dict)
