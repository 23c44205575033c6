"""The verdict, driven by hand: no store, no thread, no clock but what the test sends in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basicauth_mw.cache import Cache
from basicauth_mw.credentials import encode_basic
from basicauth_mw.errors import BackendUnavailable, UnreadableRecord
from basicauth_mw.hashing import Hasher, hash_slow
from basicauth_mw.minting import mint
from basicauth_mw.model import Allow, Decision, Deny, Key, Secret
from basicauth_mw.verifier import Check, HoldsSlow, Lookup, SlowCheck, Steps, Verifier

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PAST, LATER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
HASHER = Hasher()
SECRET = mint("sk")
CHOSEN = "correct horse battery staple"
FAST = Secret(HASHER.hash_fast(SECRET))
SLOW = Secret(hash_slow(CHOSEN))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def verifier(clock: Clock | None = None) -> Verifier:
    cache = Cache(30, 10, clock=clock or Clock(), wall=NOW.timestamp)
    return Verifier(HASHER, cache, now=lambda: NOW)


def decide(
    asked: Verifier, client_id: str, secret: str, key: Key | None, *, holds_slow: bool = True
) -> tuple[Decision, list[Any]]:
    """Run the steps; also what they asked for, in order."""
    check = asked.begin(encode_basic(client_id, secret).encode())
    effects: list[Any] = []
    if isinstance(check, Deny):
        return check, effects
    steps = iter(check)
    answer: Any = None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration as done:
            return done.value, effects
        effects.append(effect)
        if isinstance(effect, Lookup):
            answer = key
        elif isinstance(effect, HoldsSlow):
            answer = holds_slow
        else:
            answer = 0 if effect.secret == CHOSEN and effect.hashes else None


def begin(asked: Verifier, field: bytes) -> Steps:
    check = asked.begin(field)
    assert isinstance(check, Check)
    return iter(check)


KEYS = {
    "unknown": None,
    "wrong secret": Key("ci", secrets=(Secret(HASHER.hash_fast(mint("sk"))),)),
    "no secret": Key("ci"),
    "slow only": Key("ci", secrets=(Secret(hash_slow("another")),)),
    "revoked": Key("ci", revoked_at=PAST, secrets=(FAST, SLOW)),
    "disabled": Key("ci", disabled=True, secrets=(FAST, SLOW)),
    "expired": Key("ci", expires_at=PAST, secrets=(FAST, SLOW)),
    "expired now": Key("ci", expires_at=NOW, secrets=(FAST, SLOW)),
    "good": Key("ci", expires_at=LATER, secrets=(FAST, SLOW)),
}
REASONS = {
    "unknown": "unknown",
    "wrong secret": "wrong_secret",
    "no secret": "wrong_secret",
    "slow only": "wrong_secret",
    "revoked": "revoked",
    "disabled": "disabled",
    "expired": "expired",
    "expired now": "expired",
}


@pytest.mark.parametrize("name", KEYS)
def test_a_minted_secret_costs_one_look_up_whatever_is_found(name: str) -> None:
    """The work is chosen by what was sent; the same is refused, and let in, for every kind of record."""
    decision, effects = decide(verifier(), "ci", SECRET, KEYS[name])

    assert effects == [Lookup("ci")]
    if name == "good":
        assert isinstance(decision, Allow)
    else:
        assert isinstance(decision, Deny)
        assert decision.reason == REASONS[name]


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("secret", [CHOSEN, "wrong"])
def test_a_chosen_secret_costs_one_slow_hash_whatever_is_found(name: str, secret: str) -> None:
    """Of the record or of a decoy, and exactly one, where the store holds slow hashes."""
    _, effects = decide(verifier(), "ci", secret, KEYS[name])

    assert [type(effect) for effect in effects] == [Lookup, HoldsSlow, SlowCheck]
    assert len(effects[-1].hashes) <= 1


@pytest.mark.parametrize("name", ["unknown", "wrong secret", "no secret"])
def test_a_store_without_slow_hashes_never_runs_one(name: str) -> None:
    decision, effects = decide(verifier(), "ci", "wrong", KEYS[name], holds_slow=False)

    assert [type(effect) for effect in effects] == [Lookup, HoldsSlow]
    assert isinstance(decision, Deny)


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        pytest.param("ci", SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b"), id="mistyped"),
        pytest.param("i" * 256, "x", id="long id"),
        pytest.param("ci", "x" * 1025, id="long secret"),
    ],
)
def test_what_no_key_can_be_is_refused_before_any_look_up(client_id: str, secret: str) -> None:
    decision, effects = decide(verifier(), client_id, secret, KEYS["good"])

    assert effects == []
    assert isinstance(decision, Deny)
    assert decision.reason == "malformed"


def test_several_slow_hashes_are_not_paid_for() -> None:
    """Each would cost its own, and so tell that the id exists: such a record cannot be used."""
    decision, effects = decide(verifier(), "ci", CHOSEN, Key("ci", secrets=(SLOW, SLOW)))

    assert SlowCheck not in [type(effect) for effect in effects]
    assert isinstance(decision, Deny)
    assert isinstance(decision.error, UnreadableRecord)


def test_an_outage_is_no_refusal() -> None:
    steps = begin(verifier(), encode_basic("ci", SECRET).encode())
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.throw(BackendUnavailable("gone"))

    assert done.value.value.reason == "backend_unavailable"
    assert done.value.value.error.__traceback__ is None


def test_a_verdict_ages_from_its_look_up() -> None:
    """However long the hash took: what was revoked meanwhile is refused when ``cache_ttl_s`` is over."""
    clock = Clock()
    asked = verifier(clock)
    field = encode_basic("ci", CHOSEN).encode()
    steps = begin(asked, field)
    next(steps)
    steps.send(KEYS["good"])
    steps.send(True)
    clock.now_s += 20
    with pytest.raises(StopIteration):
        steps.send(0)

    assert asked.cache.get(field) is not None
    clock.now_s += 10
    assert asked.cache.get(field) is None


def test_what_was_looked_up_before_a_change_is_not_kept() -> None:
    asked = verifier()
    field = encode_basic("ci", SECRET).encode()
    steps = begin(asked, field)
    next(steps)
    asked.cache.forget("ci")
    with pytest.raises(StopIteration) as done:
        steps.send(KEYS["good"])

    assert isinstance(done.value.value, Allow)
    assert asked.cache.get(field) is None


def test_thousands_of_spellings_fill_no_cache() -> None:
    asked = verifier()
    token = encode_basic("ci", SECRET).encode()[6:]
    for spaces in range(1, 100):
        steps = begin(asked, b"bAsIc" + b" " * spaces + token)
        next(steps)
        with pytest.raises(StopIteration) as done:
            steps.send(KEYS["good"])
        assert isinstance(done.value.value, Allow)

    assert len(asked.cache) == 0


def test_who_asks_to_know_is_told_of_proved_secrets_only() -> None:
    seen: list[tuple[str, Secret, str]] = []
    cache = Cache(30, 10, clock=Clock(), wall=NOW.timestamp)
    asked = Verifier(HASHER, cache, saw=lambda *what: seen.append(what), now=lambda: NOW)

    decide(asked, "id", SECRET, Key("id", secrets=(FAST,)))
    decide(asked, "id", mint("sk"), Key("id", secrets=(FAST,)))
    decide(asked, "id", SECRET, Key("id", secrets=(FAST,), disabled=True))
    decide(asked, "id", SECRET, Key("id", secrets=(FAST,), expires_at=PAST))
    decide(asked, "nobody", SECRET, None)

    assert seen == [("id", FAST, SECRET)]
