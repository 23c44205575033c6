"""Stored hashes: which are accepted and match, and that every refusal costs the same."""

from __future__ import annotations

import sys
from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import argon2
import bcrypt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw.errors import InvalidKey, MissingExtra, UnreadableRecord
from basicauth_mw.keys.generated_secrets import generate
from basicauth_mw.keys.hashing import (
    ARGON2_LANES,
    ARGON2_MEMORY_KIB,
    ARGON2_TIME_COST,
    BCRYPT_MAX_BYTES,
    MAX_ACTIVE_SECRETS,
    Hasher,
    check_hash,
    digest,
    dummy_password_hash,
    hash_password,
    hash_secret,
    is_password_hash,
    looks_hashed,
    password,
    pepper_id,
    salt_of,
    verify_password,
)
from basicauth_mw.keys.model import Secret
from basicauth_mw.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

NEW, OLD = b"new pepper", b"old pepper"
SALT = "0123456789abcdef"

# crypt_blowfish's published vector for "U*U"; the same under both names of the scheme.
BCRYPT_SALT, BCRYPT_DIGEST = "CCCCCCCCCCCCCCCCCCCCC.", "E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
BCRYPT_2B = f"$2b$05${BCRYPT_SALT}{BCRYPT_DIGEST}"
BCRYPT_2Y = f"$2y$05${BCRYPT_SALT}{BCRYPT_DIGEST}"


def row(name: str, *values: object) -> Any:
    return pytest.param(*values, id=name)


def cheap_argon2(secret: str, *, salt: bytes = b"somesalt") -> str:
    """An Argon2id hash with minimal cost, made by the library itself."""
    return argon2.low_level.hash_secret(secret.encode(), salt, 1, 8, 1, 16, argon2.low_level.Type.ID).decode()


CHEAP_ARGON2 = cheap_argon2("p@55w0rd")


# --- digests


@pytest.mark.proves("X5", "X13", "X14")
@pytest.mark.parametrize(
    "peppers", [row("none", []), row("one", [NEW]), row("two", [NEW, OLD]), row("long", [b"x" * 1000])]
)
def test_a_digest_matches_its_secret_only(peppers: list[bytes]) -> None:
    """Only the hashed secret matches."""
    hasher = Hasher(peppers)
    secret = generate("sk")
    stored = Secret(hasher.digest_secret(secret))

    assert hasher.verify_digest(secret, [stored]) is stored
    for wrong in ("", secret[:-1], secret + "0", secret.swapcase(), generate("sk"), stored.hash):
        assert hasher.verify_digest(wrong, [stored]) is None
    assert not is_password_hash(stored.hash)
    check_hash(stored.hash)


@pytest.mark.parametrize(
    ("peppers", "stored"),
    [
        row("no-pepper", [], "$bamw1$0$0123456789abcdef$CgjKdg98G1wEUQVH2_Rt8mXd2nmzZkhrRf1hVnfuQ1s"),
        row(
            "pepper",
            [b"pepper"],
            "$bamw1$2fbb0ca6$0123456789abcdef$-eZEjPE8pkZ5LaQOzpUqvPIDc-CsZ17DnGnubBJ547E",
        ),
    ],
)
def test_the_stored_form_of_version_1(peppers: list[bytes], stored: str) -> None:
    """Digests of earlier releases still match."""
    assert Hasher(peppers).digest_secret("secret", salt=SALT) == stored
    assert Hasher(peppers).verify_digest("secret", [Secret(stored)])


def test_the_digest_is_keyed_salted_blake2b() -> None:
    """As documented (RFC 7693), so that anyone can compute it."""
    key = blake2b(b"pepper", digest_size=32).digest()
    digest = blake2b(
        b"secret", digest_size=32, key=key, salt=SALT.encode(), person=b"basicauth_mw/1"
    ).digest()

    _, name, pepper, salt, stored = Hasher([b"pepper"]).digest_secret("secret", salt=SALT).split("$")

    assert (name, pepper, salt) == ("bamw1", pepper_id(b"pepper"), SALT)
    assert stored == urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.mark.proves("B8")
def test_every_digest_has_its_own_salt() -> None:
    """Two digests of one secret differ, unless they share a salt on purpose."""
    hasher = Hasher()

    assert len({hasher.digest_secret("secret") for _ in range(100)}) == 100
    assert hasher.digest_secret("secret", salt=SALT) == hasher.digest_secret("secret", salt=SALT)


@pytest.mark.proves("O2")
def test_a_digest_matches_only_with_its_pepper() -> None:
    """The same secret and salt with another pepper give another digest."""
    digests = {
        Hasher(peppers).digest_secret("secret", salt=SALT).rpartition("$")[2]
        for peppers in ([], [NEW], [OLD], [b""])
    }
    assert len(digests) == 4


def test_new_digests_use_the_first_pepper_and_all_are_tried() -> None:
    """While a pepper is replaced, digests made with the old one, or with none, stay valid."""
    both = Hasher([NEW, OLD])
    of_old = Secret(Hasher([OLD]).digest_secret("secret"))
    of_none = Secret(Hasher().digest_secret("secret"))
    of_both = Secret(both.digest_secret("secret"))

    assert of_both.hash.startswith(f"$bamw1${pepper_id(NEW)}$")
    for stored in (of_old, of_none, of_both):
        assert both.verify_digest("secret", [stored]) is stored
        assert both.verify_digest("wrong", [stored]) is None
    assert Hasher([OLD, NEW]).digest_secret("secret").startswith(f"$bamw1${pepper_id(OLD)}$")
    assert Hasher([OLD, NEW]).verify_digest("secret", [of_both]) is of_both


def test_needs_rehash() -> None:
    """True for a digest of an older pepper or of none, and for other schemes and costs."""
    hasher = Hasher([NEW, OLD])

    assert not hasher.needs_rehash(hasher.digest_secret("secret"))
    assert hasher.needs_rehash(Hasher([OLD]).digest_secret("secret"))
    assert hasher.needs_rehash(Hasher().digest_secret("secret"))
    assert not Hasher().needs_rehash(Hasher().digest_secret("secret"))
    assert not hasher.needs_rehash(dummy_password_hash())
    assert hasher.needs_rehash(CHEAP_ARGON2)
    assert hasher.needs_rehash(BCRYPT_2B)


@pytest.mark.proves("B8")
def test_the_shape_of_a_secret_selects_its_hash() -> None:
    """In a volatile store passwords are digests too, and can still be recognized."""
    stored, volatile = Hasher([NEW]), Hasher([NEW], volatile=True)
    generated = generate("sk")

    assert stored.hash(generated).startswith(f"$bamw1${pepper_id(NEW)}$")
    assert is_password_hash(stored.hash("password"))
    for secret in (generated, "password"):
        hashed = Secret(volatile.hash(secret, salt=SALT))
        assert not is_password_hash(hashed.hash)
        assert f"${SALT}$" in hashed.hash
        assert volatile.verify_digest(secret, [hashed]) is hashed
        assert not volatile.needs_rehash(hashed.hash)
        assert volatile.is_password(hashed.hash) is (secret == "password")
        assert not stored.has_pepper(hashed.hash)
    assert stored.is_password(stored.hash("password"))
    assert not stored.is_password(stored.hash(generated))


def test_has_pepper() -> None:
    assert Hasher([NEW]).has_pepper(Hasher().digest_secret("secret"))
    assert Hasher([NEW]).has_pepper(CHEAP_ARGON2)
    assert not Hasher([NEW]).has_pepper(Hasher([OLD]).digest_secret("secret"))


def test_salt_of_returns_the_salt_of_the_first_digest() -> None:
    digested = Secret(Hasher().digest_secret("secret", salt=SALT))
    assert salt_of([]) is None
    assert salt_of([Secret(CHEAP_ARGON2)]) is None
    assert salt_of([Secret(CHEAP_ARGON2), digested, Secret(Hasher().digest_secret("secret"))]) == SALT


@pytest.mark.parametrize(
    "stored",
    [
        row("unknown-pepper", Hasher([OLD]).digest_secret("secret")),
        row("unknown-version", f"$bamw2$0${SALT}${'A' * 43}"),
        row("no-digest", f"$bamw1$0${SALT}$"),
        row("short-digest", f"$bamw1$0${SALT}${'A' * 42}"),
        row("long-digest", f"$bamw1$0${SALT}${'A' * 44}"),
        row("short-salt", f"$bamw1$0${SALT[1:]}${'A' * 43}"),
        row("no-salt", f"$bamw1$0$${'A' * 43}"),
        row("bad-pepper-id", f"$bamw1$zz${SALT}${'A' * 43}"),
        row("newline", f"$bamw1$0${SALT}${'A' * 43}\n"),
        row("non-ascii", f"$bamw1$0${SALT}${'é' * 43}"),
        row("bare", "$bamw1$"),
    ],
)
def test_a_damaged_digest_is_unreadable(stored: str) -> None:
    """Alone or next to a valid one, it never counts as a wrong secret."""
    hasher = Hasher([NEW])
    good = Secret(hasher.digest_secret("other"))

    for record in ([Secret(stored)], [good, Secret(stored)], [Secret(stored), good]):
        with pytest.raises(UnreadableRecord) as refusal:
            hasher.verify_digest("secret", record)
        assert "A" * 10 not in str(refusal.value)


def test_verify_digest_ignores_password_hashes() -> None:
    """They are left to verify_password."""
    hasher = Hasher()
    digested = Secret(hasher.digest_secret("secret"))

    assert hasher.verify_digest("secret", [Secret(CHEAP_ARGON2), digested, Secret(BCRYPT_2B)]) is digested
    assert hasher.verify_digest("p@55w0rd", [Secret(CHEAP_ARGON2)]) is None


def test_repr_does_not_show_a_pepper() -> None:
    """A hasher can be printed."""
    assert "canary" not in repr(Hasher([b"canary"]))


@pytest.mark.proves("B6", "X13", "X25")
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
@example("a", "a\0")
@example("", "\0")
def test_only_the_same_secret_matches(secret: str, other: str) -> None:
    """Two secrets match only if they are equal: nothing is truncated, case-folded or normalized."""
    hasher = Hasher([NEW])

    assert (hasher.verify_digest(other, [Secret(hasher.digest_secret(secret))]) is not None) == (
        secret == other
    )


# --- the cost of a refusal


@pytest.fixture
def fast_hashes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many digests were computed since the last call."""
    counted = 0
    computed = digest.blake2b

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal counted
        counted += 1
        return computed(*args, **kwargs)

    def since() -> int:
        nonlocal counted
        number, counted = counted, 0
        return number

    monkeypatch.setattr(digest, "blake2b", counting)
    return since


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One element for each comparison in constant time; the comparisons are still made."""
    made: list[None] = []
    compare = digest.compare_digest

    def counting(one: str, other: str) -> bool:
        made.append(None)
        return compare(one, other)

    monkeypatch.setattr(digest, "compare_digest", counting)
    return made


def records(*peppers: bytes) -> dict[str, list[Secret]]:
    """Records of every kind that may exist while ``peppers``, newest first, are configured."""
    newest, none = Hasher(peppers), Hasher()
    return {
        "unknown": [],
        "one": [Secret(newest.digest_secret("other"))],
        "one-unpeppered": [Secret(none.digest_secret("other"))],
        "many": [Secret(newest.digest_secret(f"other {n}", salt=SALT)) for n in range(MAX_ACTIVE_SECRETS)],
        "password": [Secret(CHEAP_ARGON2)],
        "password-and-digested": [Secret(BCRYPT_2B), Secret(newest.digest_secret("other"))],
        "every-pepper": [
            *(Secret(Hasher([pepper]).digest_secret("other", salt=SALT)) for pepper in peppers),
            Secret(none.digest_secret("other", salt=SALT)),
        ],
        "oldest": [Secret(Hasher(peppers[-1:]).digest_secret("other"))],
    }


@pytest.mark.proves("O4", "X1", "X6", "X7")
@pytest.mark.parametrize("peppers", [row("none", []), row("one", [NEW]), row("two", [NEW, OLD])])
def test_a_refusal_costs_the_same_whatever_was_found(
    peppers: list[bytes], fast_hashes: Callable[[], int], comparisons: list[None]
) -> None:
    """One digest for each pepper and one without, for unknown IDs and for any number and age of secrets."""
    hasher = Hasher(peppers)
    costs = {}
    for name, record in records(*peppers).items():
        fast_hashes()
        comparisons.clear()
        assert hasher.verify_digest("wrong", record) is None
        costs[name] = fast_hashes(), len(comparisons)

    assert costs == dict.fromkeys(costs, (len(peppers) + 1, MAX_ACTIVE_SECRETS * (len(peppers) + 1)))


@pytest.mark.proves("O4", "X1", "X6")
@pytest.mark.parametrize(("is_generated", "kinds"), [row("generated", True, 2), row("password", False, 3)])
def test_a_refusal_costs_the_same_in_a_volatile_store(
    fast_hashes: Callable[[], int],
    comparisons: list[None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_generated: bool,
    kinds: int,
) -> None:
    """One digest for each possible kind, however many secrets of either kind a key has."""
    read: list[None] = []
    parts = Hasher._parse_prefix

    def counting(hasher: Hasher, head: str) -> tuple[str, str]:
        read.append(None)
        return parts(hasher, head)

    monkeypatch.setattr(Hasher, "_parse_prefix", counting)
    hasher = Hasher(volatile=True)
    passwords = [Secret(hasher.hash(f"other {n}", salt=SALT)) for n in range(MAX_ACTIVE_SECRETS)]
    generated = [Secret(hasher.hash(generate("sk"), salt=SALT)) for _ in range(MAX_ACTIVE_SECRETS)]
    kept = {
        "unknown": hasher.decoy_secrets,
        "none": [],
        "generated": generated[:1],
        "password": passwords[:1],
        "many generated": generated,
        "many passwords": passwords,
        "both": [*passwords[:4], *generated[:4]],
        "imported": [Secret(Hasher().digest_secret("other"))],
        "imported password": [Secret(CHEAP_ARGON2)],
    }
    secret = generate("sk") if is_generated else "wrong"
    costs = {}
    for name, record in kept.items():
        fast_hashes()
        comparisons.clear()
        read.clear()
        assert hasher.verify_digest(secret, record, is_generated=is_generated) is None
        costs[name] = fast_hashes(), len(read), len(comparisons)

    assert costs == dict.fromkeys(kept, (kinds, kinds, MAX_ACTIVE_SECRETS * kinds))


@pytest.mark.parametrize("place", range(MAX_ACTIVE_SECRETS))
def test_any_active_secret_is_found(place: int) -> None:
    """All secrets of a key are tried, in any order."""
    hasher = Hasher([NEW])
    record = [Secret(hasher.digest_secret(f"secret {n}", salt=SALT)) for n in range(MAX_ACTIVE_SECRETS)]

    assert hasher.verify_digest(f"secret {place}", record) is record[place]


def test_secrets_with_different_salts_are_all_tried() -> None:
    """A record from elsewhere may have them."""
    hasher = Hasher([NEW])
    record = [Secret(hasher.digest_secret(f"secret {n}")) for n in range(MAX_ACTIVE_SECRETS)]

    for place, stored in enumerate(record):
        assert hasher.verify_digest(f"secret {place}", record) is stored
    assert hasher.verify_digest("wrong", record) is None


# --- password hashes


@pytest.mark.proves("B8", "O1")
def test_a_password_is_hashed_with_argon2id() -> None:
    """With the documented parameters and its own salt."""
    stored = hash_password("p@55w0rd")

    assert stored.startswith(f"$argon2id$v=19$m={ARGON2_MEMORY_KIB},t={ARGON2_TIME_COST},p={ARGON2_LANES}$")
    assert is_password_hash(stored)
    check_hash(stored)
    assert verify_password("p@55w0rd", stored)
    assert not verify_password("p@55w0rD", stored)
    assert hash_password("p@55w0rd") != stored


@pytest.mark.proves("O1")
def test_the_cost_is_the_owasp_minimum() -> None:
    """At least 19 MiB and two passes (OWASP Password Storage Cheat Sheet)."""
    assert ARGON2_MEMORY_KIB >= 19 * 1024
    assert ARGON2_TIME_COST >= 2
    assert ARGON2_LANES >= 1


@pytest.mark.proves("X5", "X13", "X14")
@pytest.mark.parametrize(
    ("stored", "secret"),
    [
        row("argon2id", CHEAP_ARGON2, "p@55w0rd"),
        row("argon2id-utf8", cheap_argon2("μυστικό"), "μυστικό"),
        row("argon2id-long", cheap_argon2("x" * 1024), "x" * 1024),
        row("argon2id-long-salt", cheap_argon2("p@55w0rd", salt=b"s" * 48), "p@55w0rd"),
        row("bcrypt-2b", BCRYPT_2B, "U*U"),
        row("bcrypt-2y", BCRYPT_2Y, "U*U"),
        row("bcrypt-2a", BCRYPT_2B.replace("$2b$", "$2a$"), "U*U"),
        row("bcrypt-72", bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode(), "x" * 72),
        row("bcrypt-72-bytes", bcrypt.hashpw("é".encode() * 36, bcrypt.gensalt(4)).decode(), "é" * 36),
    ],
)
def test_hashes_of_other_software_match(stored: str, secret: str) -> None:
    """They match their secret only, and never the hash itself."""
    check_hash(stored)
    assert is_password_hash(stored)
    assert looks_hashed(stored)
    assert verify_password(secret, stored)
    for wrong in ("", secret[:-1], secret + "x", secret.swapcase() + "!", stored):
        assert not verify_password(wrong, stored)


@pytest.mark.proves("O1", "X8", "X9", "X10")
@pytest.mark.parametrize("longer", ["x" * 73, "x" * 200, "x" * 72 + "é", "x" * 72 + " "], ids=len)
def test_a_secret_over_72_bytes_never_matches_bcrypt(longer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bcrypt ignores the rest, so the secret is refused, at the cost of one bcrypt."""
    stored = bcrypt.hashpw(b"x" * BCRYPT_MAX_BYTES, bcrypt.gensalt(4)).decode()
    checked = []
    check = bcrypt.checkpw

    def counting(password: bytes, hashed: bytes) -> bool:
        checked.append(len(password))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", counting)

    assert not verify_password(longer, stored)
    assert checked == [BCRYPT_MAX_BYTES]


@pytest.mark.parametrize(
    "stored",
    [
        row("empty", ""),
        row("plain-secret", "p@55w0rd"),
        row("unknown-scheme", "$y$j9T$abc$def"),
        row("digested", Hasher().digest_secret("secret")[:-1]),
        row("weak", "$1$"),
        row("bcrypt-short", BCRYPT_2B[:-1]),
        row("bcrypt-long", BCRYPT_2B + "A"),
        row("bcrypt-cost-text", BCRYPT_2B.replace("$05$", "$xx$")),
        row("bcrypt-cost-other-digits", BCRYPT_2B.replace("$05$", "$\u0660\u0665$")),
        row("bcrypt-salt-not-canonical", f"$2b$05${BCRYPT_SALT[:-1]}/{BCRYPT_DIGEST}"),
        row("bcrypt-too-dear", BCRYPT_2B.replace("$05$", "$31$")),
        row("argon2id-no-digest", CHEAP_ARGON2.rpartition("$")[0]),
        row("argon2id-empty-digest", CHEAP_ARGON2.rpartition("$")[0] + "$"),
        row("argon2id-salt-no-base64", CHEAP_ARGON2.replace("c29tZXNhbHQ", "c29tZXNhbHQAA")),
        row("argon2id-too-dear", CHEAP_ARGON2.replace("m=8", "m=9999999")),
        row("argon2id-newline", CHEAP_ARGON2 + "\n"),
    ],
)
def test_a_damaged_password_hash_is_unreadable(stored: str) -> None:
    """It raises UnreadableRecord only, and never matches."""
    with pytest.raises(UnreadableRecord):
        verify_password("p@55w0rd", stored)


@pytest.mark.proves("B8", "O1")
@pytest.mark.parametrize(
    ("stored", "named"),
    [
        row("apr1", "$apr1$abc$0123456789012345678901", "apr1"),
        row("md5-crypt", "$1$abc$0123456789012345678901", "MD5"),
        row("sha256-crypt", "$5$abc$def", "SHA-256"),
        row("sha512-crypt", "$6$abc$def", "SHA-512"),
        row("bcrypt-2x", BCRYPT_2B.replace("$2b$", "$2x$"), "2x"),
        row("argon2i", CHEAP_ARGON2.replace("argon2id", "argon2i"), "Argon2i"),
        row("argon2d", CHEAP_ARGON2.replace("argon2id", "argon2d"), "Argon2d"),
        row("pbkdf2", "$pbkdf2-sha256$1000$abc$def", "PBKDF2"),
        row("scrypt", "$scrypt$ln=17$abc$def", "scrypt"),
        row("django-pbkdf2", "pbkdf2_sha256$1000000$abc$def", "PBKDF2"),
        row("django-scrypt", "scrypt$16384$abc$8$5$def", "scrypt"),
        row("django-argon2", f"argon2{CHEAP_ARGON2}", "Argon2: remove the leading argon2"),
        row("django-bcrypt", f"bcrypt${BCRYPT_2B}", r"bcrypt: remove the leading bcrypt\$"),
        row("django-bcrypt-sha256", f"bcrypt_sha256${BCRYPT_2B}", "SHA-256"),
        row("django-md5", "md5$abc$def", "MD5"),
        row("rest-framework-api-key", "sha512$$0123456789abcdef", "unsalted SHA-512"),
        row("werkzeug-scrypt", "scrypt:32768:8:1$abc$def", "scrypt"),
        row("werkzeug-pbkdf2", "pbkdf2:sha256:1000000$abc$def", "PBKDF2"),
        row("sha1", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        row("ssha1", "{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
    ],
)
def test_unsupported_schemes_are_named(stored: str, named: str) -> None:
    """The error names the scheme without printing the hash."""
    assert looks_hashed(stored)
    with pytest.raises(InvalidKey, match=named) as refusal:
        check_hash(stored)
    assert stored.rpartition("$")[2] not in str(refusal.value)


def argon2_of(memory: object, time: object, lanes: object) -> str:
    return f"$argon2id$v=19$m={memory},t={time},p={lanes}$c29tZXNhbHQ${'A' * 22}"


@pytest.mark.parametrize(
    "stored",
    [
        row("argon2id-least", argon2_of(8, 1, 1)),
        row("argon2id-most-memory", argon2_of(131072, 1, 1)),
        row("argon2id-most-time", argon2_of(8, 8, 1)),
        row("argon2id-library-default", argon2_of(65536, 3, 4)),
        row("bcrypt-least", BCRYPT_2B.replace("$05$", "$04$")),
        row("bcrypt-most", BCRYPT_2Y.replace("$05$", "$14$")),
    ],
)
def test_hashes_within_bounds_are_accepted(stored: str) -> None:
    """Every common cost can be imported."""
    check_hash(stored)


@pytest.mark.parametrize(
    "stored",
    [
        row("empty", ""),
        row("plain-secret", "p@55w0rd"),
        row("yescrypt", "$y$j9T$abc$def"),
        row("digested-of-no-version", f"$bamw2$0${SALT}${'A' * 43}"),
        row("digested-damaged", f"$bamw1$0${SALT}${'A' * 42}"),
        row("argon2id-memory", argon2_of(262145, 1, 1)),
        row("argon2id-time", argon2_of(8, 17, 1)),
        row("argon2id-time-zero", argon2_of(8, 0, 1)),
        row("argon2id-lanes-zero", argon2_of(8, 1, 0)),
        row("argon2id-memory-under-lanes", argon2_of(31, 1, 4)),
        row("argon2id-memory-zero", argon2_of(0, 1, 0)),
        row("argon2id-negative", argon2_of(-8, 1, 1)),
        row("argon2id-old-version", argon2_of(8, 1, 1).replace("v=19", "v=16")),
        row("argon2id-no-version", argon2_of(8, 1, 1).replace("v=19$", "")),
        row("argon2id-other-digits", argon2_of(8, "\u0661", 1)),
        row("argon2id-salt-no-base64", argon2_of(8, 1, 1).replace("c29tZXNhbHQ", "c29tZXNhbHQAA")),
        row("bcrypt-cost-3", BCRYPT_2B.replace("$05$", "$03$")),
        row("bcrypt-cost-16", BCRYPT_2B.replace("$05$", "$16$")),
        row("bcrypt-cost-one-digit", BCRYPT_2B.replace("$05$", "$5$")),
        row("bcrypt-cost-other-digits", BCRYPT_2B.replace("$05$", "$\u0660\u0665$")),
        row("bcrypt-salt-not-canonical", f"$2b$05${BCRYPT_SALT[:-1]}/{BCRYPT_DIGEST}"),
        row("bcrypt-newline", BCRYPT_2B + "\n"),
    ],
)
def test_check_hash_refuses_damaged_and_costly_hashes(stored: str) -> None:
    """They are refused on import, not at the first login."""
    with pytest.raises(InvalidKey):
        check_hash(stored)


@given(
    st.one_of(
        st.text(max_size=120),
        st.builds(
            "{}{}${}${}".format,
            st.sampled_from(["$argon2id$v=19$m=8,t=1,p=1", "$2b$04", "$2y$04", "$bamw1$0", "$1$", ""]),
            st.sampled_from(["", "$"]),
            st.text("Aa0./+-_", max_size=22),
            st.text("Aa0./+-_", max_size=53),
        ),
        st.from_regex(r"\$2[by]\$04\$[./A-Za-z0-9]{53}", fullmatch=True),
    )
)
def test_every_accepted_hash_can_be_verified(stored: str) -> None:
    """Any text raises InvalidKey, or is a hash that a secret can be compared with."""
    try:
        check_hash(stored)
    except InvalidKey:
        return
    if is_password_hash(stored):
        assert verify_password("guess", stored) is False
    else:
        assert Hasher().verify_digest("guess", [Secret(stored)]) is None


def test_plain_secrets_do_not_look_hashed() -> None:
    """Neither passwords nor generated secrets do."""
    for secret in (generate("sk"), "p@55w0rd", "$ecret", "", "2b", "{secret}"):
        assert not looks_hashed(secret)


# --- the decoy


@pytest.mark.proves("O4", "X1", "X4")
def test_the_dummy_hash_costs_as_much_as_a_new_hash() -> None:
    """It has the parameters of hash_password; there is one for each process."""
    decoy = dummy_password_hash()

    check_hash(decoy)
    assert decoy.split("$")[:4] == hash_password("p@55w0rd").split("$")[:4]
    assert [len(part) for part in decoy.split("$")] == [
        len(part) for part in hash_password("p@55w0rd").split("$")
    ]
    assert dummy_password_hash() is decoy
    for guess in ("", "p@55w0rd", decoy):
        assert not verify_password(guess, decoy)


@pytest.mark.proves("X4")
def test_the_dummy_hash_follows_the_cost_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is defined in one place only."""
    monkeypatch.setattr(password, "_dummy_hash", None)
    monkeypatch.setattr(password, "ARGON2_TIME_COST", 3)
    monkeypatch.setattr(password, "ARGON2_MEMORY_KIB", 64)

    assert dummy_password_hash().startswith("$argon2id$v=19$m=64,t=3,p=1$")
    assert hash_password("p@55w0rd").startswith("$argon2id$v=19$m=64,t=3,p=1$")


# --- for custom stores


def test_hash_secret_selects_by_shape() -> None:
    """Generated secrets become digests, passwords Argon2id hashes."""
    secret = generate("sk")

    digested = Secret(hash_secret(secret))
    assert Hasher().verify_digest(secret, [digested]) is digested
    assert verify_password("p@55w0rd", hash_secret("p@55w0rd"))


def test_hash_secret_refuses_a_wrong_checksum() -> None:
    """The error does not show the secret."""
    secret = generate("sk")
    mistyped = secret[:-1] + ("0" if secret[-1] != "0" else "1")

    with pytest.raises(InvalidKey) as refusal:
        hash_secret(mistyped)
    assert mistyped not in str(refusal.value)


@pytest.mark.parametrize(
    "pepper",
    [
        row("none", ()),
        row("one", ["pepper"]),
        row("list", ["new", "old"]),
    ],
)
def test_hash_secret_accepts_settings_pepper(pepper: Any) -> None:
    """The hash matches in a middleware with the same settings."""
    secret = generate("sk")
    stored = Secret(hash_secret(secret, pepper=pepper))
    hasher = Hasher([each.encode() for each in Settings(pepper=pepper).pepper])

    assert hasher.verify_digest(secret, [stored]) is stored
    assert not hasher.needs_rehash(stored.hash)


def test_hash_secret_refuses_a_string_as_peppers() -> None:
    """It could mean one pepper, or several with commas."""
    with pytest.raises(InvalidKey, match="list"):
        hash_secret(generate("sk"), pepper="new,old")


@pytest.mark.parametrize("secret", ["canary\udcff"], ids=ascii)
def test_hash_secret_refuses_lone_surrogates(secret: str) -> None:
    """No client can send them."""
    with pytest.raises(InvalidKey) as refusal:
        hash_secret(secret)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        row("hash", "argon2", lambda: hash_password("p@55w0rd")),
        row("match-argon2", "argon2", lambda: verify_password("p@55w0rd", CHEAP_ARGON2)),
        row("match-bcrypt", "bcrypt", lambda: verify_password("p@55w0rd", BCRYPT_2B)),
        row("hash-secret", "argon2", lambda: hash_secret("p@55w0rd")),
    ],
)
def test_a_missing_library_names_its_extra(
    module: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, module, None)  # what an import finds when it is not installed

    with pytest.raises(MissingExtra, match=r"pip install 'basicauth_mw\[passwords\]'"):
        call()
