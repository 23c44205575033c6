"""The verifier without I/O: the tests pass it the results of lookups and password hashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from basicauth_mw.auth.cache import VerificationCache
from basicauth_mw.auth.verifier import PendingVerification, Verifier, VerifyPassword
from basicauth_mw.backends import codec
from basicauth_mw.errors import (
    BackendUnavailable,
    InvalidCredentials,
    MalformedCredentials,
    UnreadableRecord,
)
from basicauth_mw.keys.authorization_header import encode_basic
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import Hasher, hash_password
from basicauth_mw.keys.model import Decision, Deny, Key, Principal, Secret
from basicauth_mw.keys.validation import MAX_ID_BYTES, MAX_SECRET_BYTES
from tests.waiting import Clock

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAIVE = NOW.replace(tzinfo=None)
PAST, LATER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
HASHER = Hasher()
SECRET = generate("sk")
PASSWORD = "correct horse battery staple"
DIGEST = Secret(HASHER.digest_secret(SECRET))
HASHED = Secret(hash_password(PASSWORD))


def verifier(clock: Clock | None = None, *, has_password_hashes: bool = True) -> Verifier:
    cache = VerificationCache(30, 10, clock=clock or Clock(), wall_clock=NOW.timestamp)
    return Verifier(HASHER, cache, has_password_hashes=lambda: has_password_hashes, now=lambda: NOW)


def decide(checker: Verifier, client_id: str, secret: str, key: Key | None) -> tuple[Decision, list[Any]]:
    """Verify; return the decision and what it needed, in order: the ID to look up, the password hash."""
    check = checker.parse(encode_basic(client_id, secret).encode())
    if isinstance(check, Deny):
        return check, []
    decision = check.decide(key)
    if not isinstance(decision, VerifyPassword):
        return decision, [check.client_id]
    index = 0 if decision.secret == PASSWORD and decision.hashes else None
    return decision.conclude(index), [check.client_id, decision]


def begin(checker: Verifier, field: bytes) -> PendingVerification:
    check = checker.parse(field)
    assert isinstance(check, PendingVerification)
    return check


def decided(check: PendingVerification, found: object) -> Decision:
    decision = check.decide(found)
    assert not isinstance(decision, VerifyPassword)
    return decision


def password_step(check: PendingVerification, found: object) -> VerifyPassword:
    decision = check.decide(found)
    assert isinstance(decision, VerifyPassword)
    return decision


def assert_denied(decision: Decision, error: type[Exception], reason: str, client_id: str | None) -> None:
    assert isinstance(decision, Deny)
    assert (type(decision.error), decision.reason, decision.client_id) == (error, reason, client_id)
    assert decision.first_refusal


KEYS = {
    "unknown": None,
    "wrong secret": Key("ci", secrets=(Secret(HASHER.digest_secret(generate("sk"))),)),
    "no secret": Key("ci"),
    "password only": Key("ci", secrets=(Secret(hash_password("another")),)),
    "revoked": Key("ci", revoked_at=PAST, secrets=(DIGEST, HASHED)),
    "disabled": Key("ci", disabled=True, secrets=(DIGEST, HASHED)),
    "expired": Key("ci", expires_at=PAST, secrets=(DIGEST, HASHED)),
    "expired now": Key("ci", expires_at=NOW, secrets=(DIGEST, HASHED)),
    "secret expired": Key("ci", secrets=(Secret(DIGEST.hash, expires_at=PAST),)),
    "secret expired before key": Key("ci", expires_at=LATER, secrets=(Secret(DIGEST.hash, expires_at=NOW),)),
    "key expired before secret": Key("ci", expires_at=NOW, secrets=(Secret(DIGEST.hash, expires_at=LATER),)),
    "good": Key("ci", "CI", {"read"}, expires_at=LATER, metadata={"team": 1}, secrets=(DIGEST, HASHED)),
}
REASONS = {
    "unknown": "unknown",
    "wrong secret": "wrong_secret",
    "no secret": "wrong_secret",
    "password only": "wrong_secret",
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
def test_a_generated_secret_costs_one_lookup_whatever_is_found(name: str) -> None:
    """The work depends on the credentials only; the decision is the same for every kind of record."""
    decision, effects = decide(verifier(), "ci", SECRET, KEYS[name])

    assert effects == ["ci"]
    if name == "good":
        assert decision == Principal("ci", "CI", frozenset({"read"}), {"team": 1})
    else:
        assert_denied(decision, InvalidCredentials, REASONS[name], "ci")


@pytest.mark.proves("O4", "X1", "X6", "X7")
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("secret", [PASSWORD, "wrong"])
def test_a_password_costs_one_password_hash_whatever_is_found(name: str, secret: str) -> None:
    """Of the record or of a decoy, if the store holds password hashes."""
    _, effects = decide(verifier(), "ci", secret, KEYS[name])

    assert [type(effect) for effect in effects] == [str, VerifyPassword]
    assert effects[-1].secret == secret
    assert len(effects[-1].hashes) <= 1


@pytest.mark.parametrize("name", ["unknown", "wrong secret", "no secret"])
def test_a_store_without_password_hashes_never_computes_one(name: str) -> None:
    decision, effects = decide(verifier(has_password_hashes=False), "ci", "wrong", KEYS[name])

    assert effects == ["ci"]
    assert isinstance(decision, Deny)


@pytest.mark.proves("O3", "X8", "X11")
@pytest.mark.parametrize(
    ("client_id", "secret", "error"),
    [
        pytest.param(
            "ci", SECRET[:-1] + ("a" if SECRET[-1] != "a" else "b"), InvalidCredentials, id="mistyped"
        ),
        pytest.param("i" * (MAX_ID_BYTES + 1), "x", MalformedCredentials, id="long id"),
        pytest.param("é" * (MAX_ID_BYTES // 2 + 1), "x", MalformedCredentials, id="multi-byte id"),
        pytest.param("ci", "x" * (MAX_SECRET_BYTES + 1), MalformedCredentials, id="long secret"),
    ],
)
def test_impossible_credentials_are_refused_before_the_lookup(
    client_id: str, secret: str, error: type[Exception]
) -> None:
    decision, effects = decide(verifier(), client_id, secret, KEYS["good"])

    assert effects == []
    assert_denied(decision, error, "malformed", client_id)


def test_the_longest_id_and_secret_are_looked_up() -> None:
    decision, effects = decide(verifier(), "i" * MAX_ID_BYTES, "x" * MAX_SECRET_BYTES, None)

    assert effects[0] == "i" * MAX_ID_BYTES
    assert_denied(decision, InvalidCredentials, "unknown", "i" * MAX_ID_BYTES)


def test_unreadable_credentials_have_no_client_id() -> None:
    assert_denied(verifier().parse(b"Basic ?"), MalformedCredentials, "malformed", None)  # type: ignore[arg-type]


class RecordingHasher(Hasher):
    """Records ``is_generated`` of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[bool] = []

    def verify_digest(self, secret: str, stored: Any, *, is_generated: bool = False) -> Secret | None:
        self.shapes.append(is_generated)
        return super().verify_digest(secret, stored, is_generated=is_generated)


def test_the_hasher_is_passed_the_shape_of_the_secret() -> None:
    """So that it skips the digests of passwords for a generated secret."""
    hasher = RecordingHasher()
    checker = Verifier(hasher, VerificationCache(30, 10), now=lambda: NOW)
    decide(checker, "ci", SECRET, KEYS["good"])
    decide(checker, "ci", PASSWORD, KEYS["good"])

    assert hasher.shapes == [True, False]


@pytest.mark.parametrize("result", [None, True, False, "0", 0.0], ids=repr)
def test_only_an_index_counts_as_a_match(result: object) -> None:
    """Any other result of a password verification is a refusal."""
    step = password_step(begin(verifier(), encode_basic("ci", PASSWORD).encode()), KEYS["good"])

    assert_denied(step.conclude(result), InvalidCredentials, "wrong_secret", "ci")


def test_a_key_with_several_password_hashes_is_unreadable() -> None:
    """Each makes a refusal slower, which reveals that the ID exists."""
    decision, effects = decide(verifier(), "ci", PASSWORD, Key("ci", secrets=(HASHED, HASHED)))

    assert VerifyPassword not in [type(effect) for effect in effects]
    assert isinstance(decision, Deny)
    assert isinstance(decision.error, UnreadableRecord)


@pytest.mark.proves("F34")
def test_an_outage_is_not_a_refusal() -> None:
    class Down(Hasher):
        def verify_digest(self, *_args: Any, **_shape: Any) -> Any:
            raise BackendUnavailable("gone")

    checker = Verifier(Down(), VerificationCache(30, 10), now=lambda: NOW)
    decision = decided(begin(checker, encode_basic("ci", SECRET).encode()), KEYS["good"])

    assert_denied(decision, BackendUnavailable, "backend_unavailable", "ci")
    assert isinstance(decision, Deny)
    assert decision.error.__traceback__ is None


@pytest.mark.parametrize(
    ("result", "name"),
    [
        pytest.param("a key", "TypeError", id="no key"),
        pytest.param(True, "TypeError", id="true"),
        pytest.param(Key("ci", secrets=("hash",)), "AttributeError", id="secrets of text"),  # type: ignore[arg-type]
        pytest.param(
            Key("ci", expires_at=PAST.replace(tzinfo=None), secrets=(DIGEST,)), "TypeError", id="naive"
        ),
    ],
)
def test_a_lookup_result_of_the_wrong_type_never_authenticates(result: object, name: str) -> None:
    """The error describes it without its values."""
    decision = decided(begin(verifier(), encode_basic("ci", SECRET).encode()), result)

    assert_denied(decision, UnreadableRecord, "backend_unavailable", "ci")
    assert isinstance(decision, Deny)
    assert name in str(decision.error)


def test_a_verification_that_cannot_run_is_not_a_refusal() -> None:
    """For example after waiting for an equal one."""
    check = verifier().parse(encode_basic("ci", SECRET).encode())
    assert isinstance(check, PendingVerification)
    try:
        raise BackendUnavailable("gone")
    except BackendUnavailable as exc:
        denied = check.deny(exc)

    assert_denied(denied, BackendUnavailable, "backend_unavailable", "ci")
    assert denied.error.__traceback__ is None


def test_a_verification_finds_a_decision_cached_in_the_meantime() -> None:
    checker = verifier()
    check = checker.parse(encode_basic("ci", SECRET).encode())
    assert isinstance(check, PendingVerification)
    assert check.cached() is None
    decision, _ = decide(checker, "ci", SECRET, KEYS["good"])

    assert check.cached() == decision


def test_only_equal_headers_share_a_decision() -> None:
    checker, other = verifier(), generate("sk")

    def share_key(secret: str) -> object:
        check = checker.parse(encode_basic("ci", secret).encode())
        assert isinstance(check, PendingVerification)
        return check.share_key

    first = share_key(SECRET)
    assert first is not None
    assert share_key(SECRET) == first
    assert share_key(other) != first
    checker.cache.invalidate("ci")  # a change: later requests do not share the decision
    assert share_key(SECRET) != first


def test_nothing_is_shared_with_the_cache_off() -> None:
    check = Verifier(HASHER, VerificationCache(0, 10)).parse(encode_basic("ci", SECRET).encode())

    assert isinstance(check, PendingVerification)
    assert check.share_key is None


def test_a_cached_decision_expires_with_its_key_or_secret() -> None:
    """Whichever expires sooner."""
    clock = Clock()
    wall = Clock()
    wall.now = NOW.timestamp()
    cache = VerificationCache(30, 10, clock=clock, wall_clock=wall)
    checker = Verifier(HASHER, cache, now=lambda: NOW)
    stored = Secret(DIGEST.hash, created_at=PAST, expires_at=NOW + timedelta(seconds=5))
    decide(checker, "ci", SECRET, Key("ci", expires_at=NOW + timedelta(seconds=9), secrets=(stored,)))
    field = encode_basic("ci", SECRET).encode()

    assert cache.get(field) is not None
    assert [hit.secret_created_at for hit in cache.drain_hits()] == [codec.to_microseconds(PAST)]
    wall.now += 5
    assert cache.get(field) is None


@pytest.mark.proves("F24")
def test_the_ttl_starts_at_the_lookup() -> None:
    """However long the hash takes: a revoked key is refused once ``cache_ttl_s`` is over."""
    clock = Clock()
    checker = verifier(clock)
    field = encode_basic("ci", PASSWORD).encode()
    step = password_step(begin(checker, field), KEYS["good"])
    clock.now += 20
    assert isinstance(step.conclude(0), Principal)

    assert checker.cache.get(field) is not None
    clock.now += 10
    assert checker.cache.get(field) is None


def test_a_lookup_from_before_a_change_is_not_cached() -> None:
    checker = verifier()
    field = encode_basic("ci", SECRET).encode()
    check = begin(checker, field)
    checker.cache.invalidate("ci")

    assert isinstance(decided(check, KEYS["good"]), Principal)
    assert checker.cache.get(field) is None


@pytest.mark.proves("F29")
def test_unusual_forms_of_a_header_are_not_cached() -> None:
    checker = verifier()
    token = encode_basic("ci", SECRET).encode()[6:]
    for spaces in range(1, 100):
        check = begin(checker, b"bAsIc" + b" " * spaces + token)
        assert isinstance(decided(check, KEYS["good"]), Principal)

    assert len(checker.cache) == 0


def test_on_verified_is_called_for_verified_secrets_only() -> None:
    seen: list[tuple[str, codec.StoredSecret, str]] = []
    cache = VerificationCache(30, 10, clock=Clock(), wall_clock=NOW.timestamp)
    checker = Verifier(HASHER, cache, on_verified=lambda *what: seen.append(what), now=lambda: NOW)

    decide(checker, "id", SECRET, Key("id", secrets=(DIGEST,)))
    decide(checker, "id", generate("sk"), Key("id", secrets=(DIGEST,)))
    decide(checker, "id", SECRET, Key("id", secrets=(DIGEST,), disabled=True))
    decide(checker, "id", SECRET, Key("id", secrets=(DIGEST,), expires_at=PAST))
    decide(checker, "unknown", SECRET, None)

    assert seen == [("id", codec.stored_secret(DIGEST), SECRET)]


def test_every_refusal_decodes_as_much_of_a_stored_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong secret as much as the right secret of a revoked key."""
    decoded: list[type] = []
    decode = codec._decode

    def counted(text: str, start: int) -> tuple[Any, int]:
        value, end = decode(text, start)
        decoded.append(type(value))
        return value, end

    monkeypatch.setattr(codec, "_decode", counted)
    stored = codec.dump_key(Key("ci", revoked_at=PAST, secrets=(DIGEST,)))
    for text, secret in ((None, SECRET), (stored, generate("sk")), (stored, SECRET)):
        decoded.clear()
        check = begin(verifier(), encode_basic("ci", secret).encode())
        assert isinstance(decided(check, codec.load_for_lookup(text, "ci")), Deny)
        assert decoded == [list, dict]
