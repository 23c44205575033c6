"""The verdict, driven by hand: no store, no thread, no clock but what the test sends in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basicauth_mw.auth.cache import VerdictCache
from basicauth_mw.auth.verifier import Lookup, PendingVerification, Steps, Verifier, VerifyPassword
from basicauth_mw.errors import (
    BackendUnavailable,
    InvalidCredentials,
    MalformedCredentials,
    UnreadableRecord,
)
from basicauth_mw.keys.credentials import encode_basic
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from basicauth_mw.keys.model import Allow, Decision, Deny, Key, Principal, Secret
from basicauth_mw.keys.validation import MAX_ID_OCTETS, MAX_SECRET_OCTETS
from tests.waiting import Clock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAIVE = NOW.replace(tzinfo=None)
PAST, LATER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
HASHER = Hasher()
SECRET = generate("sk")
CHOSEN = "correct horse battery staple"
FAST = Secret(HASHER.digest_secret(SECRET))
SLOW = Secret(hash_password(CHOSEN))


def verifier(clock: Clock | None = None, *, has_password_hashes: bool = True) -> Verifier:
    cache = VerdictCache(30, 10, clock=clock or Clock(), wall_clock=NOW.timestamp)
    return Verifier(HASHER, cache, has_password_hashes=lambda: has_password_hashes, now=lambda: NOW)


def decide(asked: Verifier, client_id: str, secret: str, key: Key | None) -> tuple[Decision, list[Any]]:
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
        else:
            answer = 0 if effect.secret == CHOSEN and effect.hashes else None


def begin(asked: Verifier, field: bytes) -> Steps:
    check = asked.begin(field)
    assert isinstance(check, PendingVerification)
    return iter(check)


def assert_denied(decision: Decision, error: type[Exception], reason: str, client_id: str | None) -> None:
    assert isinstance(decision, Deny)
    assert (type(decision.error), decision.reason, decision.client_id) == (error, reason, client_id)
    assert decision.first_refusal


KEYS = {
    "unknown": None,
    "wrong secret": Key("ci", secrets=(Secret(HASHER.digest_secret(generate("sk"))),)),
    "no secret": Key("ci"),
    "slow only": Key("ci", secrets=(Secret(hash_password("another")),)),
    "revoked": Key("ci", revoked_at=PAST, secrets=(FAST, SLOW)),
    "disabled": Key("ci", disabled=True, secrets=(FAST, SLOW)),
    "expired": Key("ci", expires_at=PAST, secrets=(FAST, SLOW)),
    "expired now": Key("ci", expires_at=NOW, secrets=(FAST, SLOW)),
    "secret expired": Key("ci", secrets=(Secret(FAST.hash, expires_at=PAST),)),
    "secret expired before key": Key("ci", expires_at=LATER, secrets=(Secret(FAST.hash, expires_at=NOW),)),
    "key expired before secret": Key("ci", expires_at=NOW, secrets=(Secret(FAST.hash, expires_at=LATER),)),
    "good": Key("ci", "CI", {"read"}, expires_at=LATER, metadata={"team": 1}, secrets=(FAST, SLOW)),
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
    "secret expired": "expired",
    "secret expired before key": "expired",
    "key expired before secret": "expired",
}


@pytest.mark.proves("O4", "X6", "X7")
@pytest.mark.parametrize("name", KEYS)
def test_a_minted_secret_costs_one_look_up_whatever_is_found(name: str) -> None:
    """The work is chosen by what was sent; the same is refused, and let in, for every kind of record."""
    decision, effects = decide(verifier(), "ci", SECRET, KEYS[name])

    assert effects == [Lookup("ci", False)]
    if name == "good":
        assert decision == Allow(Principal("ci", "CI", frozenset({"read"}), {"team": 1}))
    else:
        assert_denied(decision, InvalidCredentials, REASONS[name], "ci")


@pytest.mark.proves("O4", "X1", "X6", "X7")
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("secret", [CHOSEN, "wrong"])
def test_a_chosen_secret_costs_one_slow_hash_whatever_is_found(name: str, secret: str) -> None:
    """Of the record or of a decoy, and exactly one, where the store holds slow hashes."""
    _, effects = decide(verifier(), "ci", secret, KEYS[name])

    assert [type(effect) for effect in effects] == [Lookup, VerifyPassword]
    assert effects[-1].secret == secret
    assert len(effects[-1].hashes) <= 1


@pytest.mark.parametrize("name", ["unknown", "wrong secret", "no secret"])
def test_a_store_without_slow_hashes_never_runs_one(name: str) -> None:
    decision, effects = decide(verifier(has_password_hashes=False), "ci", "wrong", KEYS[name])

    assert effects == [Lookup("ci", True)]
    assert isinstance(decision, Deny)


@pytest.mark.proves("O3", "X8", "X11")
@pytest.mark.parametrize(
    ("client_id", "secret", "error"),
    [
        pytest.param(
            "ci", SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b"), InvalidCredentials, id="mistyped"
        ),
        pytest.param("i" * (MAX_ID_OCTETS + 1), "x", MalformedCredentials, id="long id"),
        pytest.param("é" * (MAX_ID_OCTETS // 2 + 1), "x", MalformedCredentials, id="id of long octets"),
        pytest.param("ci", "x" * (MAX_SECRET_OCTETS + 1), MalformedCredentials, id="long secret"),
    ],
)
def test_what_no_key_can_be_is_refused_before_any_look_up(
    client_id: str, secret: str, error: type[Exception]
) -> None:
    decision, effects = decide(verifier(), client_id, secret, KEYS["good"])

    assert effects == []
    assert_denied(decision, error, "malformed", client_id)


def test_the_longest_id_and_secret_are_looked_up() -> None:
    decision, effects = decide(verifier(), "i" * MAX_ID_OCTETS, "x" * MAX_SECRET_OCTETS, None)

    assert effects[0] == Lookup("i" * MAX_ID_OCTETS, True)
    assert_denied(decision, InvalidCredentials, "unknown", "i" * MAX_ID_OCTETS)


def test_what_cannot_be_read_names_no_client() -> None:
    assert_denied(verifier().begin(b"Basic ?"), MalformedCredentials, "malformed", None)  # type: ignore[arg-type]


class Told(Hasher):
    """Remembers whether it was told that a secret looks minted."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def verify_digest(self, secret: str, stored: Any, *, is_generated: bool = False) -> Secret | None:
        self.told.append(is_generated)
        return super().verify_digest(secret, stored, is_generated=is_generated)


def test_the_hasher_is_told_what_a_secret_looks_like() -> None:
    """So that none of the chosen ones is hashed for a minted one."""
    hasher = Told()
    asked = Verifier(hasher, VerdictCache(30, 10), now=lambda: NOW)
    decide(asked, "ci", SECRET, KEYS["good"])
    decide(asked, "ci", CHOSEN, KEYS["good"])

    assert hasher.told == [True, False]


@pytest.mark.parametrize("answer", [None, True, False, "0", 0.0], ids=repr)
def test_only_an_index_is_a_match(answer: object) -> None:
    """Whatever else a check of slow hashes comes to."""
    steps = begin(verifier(), encode_basic("ci", CHOSEN).encode())
    next(steps)
    steps.send(KEYS["good"])
    with pytest.raises(StopIteration) as done:
        steps.send(answer)

    assert_denied(done.value.value, InvalidCredentials, "wrong_secret", "ci")


def test_several_slow_hashes_are_not_paid_for() -> None:
    """Each would cost its own, and so tell that the id exists: such a record cannot be used."""
    decision, effects = decide(verifier(), "ci", CHOSEN, Key("ci", secrets=(SLOW, SLOW)))

    assert VerifyPassword not in [type(effect) for effect in effects]
    assert isinstance(decision, Deny)
    assert isinstance(decision.error, UnreadableRecord)


@pytest.mark.proves("F34")
def test_an_outage_is_no_refusal() -> None:
    steps = begin(verifier(), encode_basic("ci", SECRET).encode())
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.throw(BackendUnavailable("gone"))

    assert_denied(done.value.value, BackendUnavailable, "backend_unavailable", "ci")
    assert done.value.value.error.__traceback__ is None


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        pytest.param("a key", "TypeError", id="no key"),
        pytest.param(True, "TypeError", id="true"),
        pytest.param(Key("ci", secrets=("hash",)), "AttributeError", id="secrets of text"),  # type: ignore[arg-type]
        pytest.param(
            Key("ci", expires_at=PAST.replace(tzinfo=None), secrets=(FAST,)), "TypeError", id="naive"
        ),
    ],
)
def test_an_answer_of_the_wrong_type_is_no_way_in(answer: object, name: str) -> None:
    """A key of somebody's own making; what is wrong with it is told without its values."""
    steps = begin(verifier(), encode_basic("ci", SECRET).encode())
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(answer)

    assert_denied(done.value.value, UnreadableRecord, "backend_unavailable", "ci")
    assert name in str(done.value.value.error)


def test_a_check_that_cannot_be_run_is_no_refusal() -> None:
    """Of whoever waited for an equal one, say."""
    check = verifier().begin(encode_basic("ci", SECRET).encode())
    assert isinstance(check, PendingVerification)
    try:
        raise BackendUnavailable("gone")
    except BackendUnavailable as exc:
        denied = check.failed(exc)

    assert_denied(denied, BackendUnavailable, "backend_unavailable", "ci")
    assert denied.error.__traceback__ is None


def test_a_check_finds_what_was_proved_since_it_began() -> None:
    asked = verifier()
    check = asked.begin(encode_basic("ci", SECRET).encode())
    assert isinstance(check, PendingVerification)
    assert check.known() is None
    decision, _ = decide(asked, "ci", SECRET, KEYS["good"])

    assert check.known() == decision


def test_only_the_same_field_at_the_same_time_shares_a_verdict() -> None:
    asked, other = verifier(), generate("sk")

    def flight(secret: str) -> object:
        check = asked.begin(encode_basic("ci", secret).encode())
        assert isinstance(check, PendingVerification)
        return check.flight

    first = flight(SECRET)
    assert first is not None
    assert flight(SECRET) == first
    assert flight(other) != first
    asked.cache.invalidate("ci")  # something has changed: who comes now asks anew
    assert flight(SECRET) != first


def test_who_wants_nothing_remembered_shares_nothing() -> None:
    check = Verifier(HASHER, VerdictCache(0, 10)).begin(encode_basic("ci", SECRET).encode())

    assert isinstance(check, PendingVerification)
    assert check.flight is None


def test_what_is_kept_knows_its_secret_and_its_end() -> None:
    """Of the key or of the secret, whichever is sooner."""
    clock = Clock()
    wall = Clock()
    wall.now = NOW.timestamp()
    cache = VerdictCache(30, 10, clock=clock, wall_clock=wall)
    asked = Verifier(HASHER, cache, now=lambda: NOW)
    stored = Secret(FAST.hash, created_at=PAST, expires_at=NOW + timedelta(seconds=5))
    decide(asked, "ci", SECRET, Key("ci", expires_at=NOW + timedelta(seconds=9), secrets=(stored,)))
    field = encode_basic("ci", SECRET).encode()

    assert cache.get(field) is not None
    assert [hit.secret_created_at for hit in cache.drain_hits()] == [PAST]
    wall.now += 5
    assert cache.get(field) is None


@pytest.mark.proves("F24")
def test_a_verdict_ages_from_its_look_up() -> None:
    """However long the hash took: what was revoked meanwhile is refused when ``cache_ttl_s`` is over."""
    clock = Clock()
    asked = verifier(clock)
    field = encode_basic("ci", CHOSEN).encode()
    steps = begin(asked, field)
    next(steps)
    steps.send(KEYS["good"])
    clock.now += 20
    with pytest.raises(StopIteration):
        steps.send(0)

    assert asked.cache.get(field) is not None
    clock.now += 10
    assert asked.cache.get(field) is None


def test_what_was_looked_up_before_a_change_is_not_kept() -> None:
    asked = verifier()
    field = encode_basic("ci", SECRET).encode()
    steps = begin(asked, field)
    next(steps)
    asked.cache.invalidate("ci")
    with pytest.raises(StopIteration) as done:
        steps.send(KEYS["good"])

    assert isinstance(done.value.value, Allow)
    assert asked.cache.get(field) is None


@pytest.mark.proves("F29")
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
    cache = VerdictCache(30, 10, clock=Clock(), wall_clock=NOW.timestamp)
    asked = Verifier(HASHER, cache, on_verified=lambda *what: seen.append(what), now=lambda: NOW)

    decide(asked, "id", SECRET, Key("id", secrets=(FAST,)))
    decide(asked, "id", generate("sk"), Key("id", secrets=(FAST,)))
    decide(asked, "id", SECRET, Key("id", secrets=(FAST,), disabled=True))
    decide(asked, "id", SECRET, Key("id", secrets=(FAST,), expires_at=PAST))
    decide(asked, "nobody", SECRET, None)

    assert seen == [("id", FAST, SECRET)]
