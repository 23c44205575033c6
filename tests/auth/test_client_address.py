"""The client that an address belongs to."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from basicauth_mw.auth.client_address import client_of
from basicauth_mw.auth.throttle import FailureThrottle


@pytest.mark.parametrize(
    ("address", "same"),
    [
        ("192.0.2.1", "192.0.2.1:5678"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("192.0.2.1", "[::ffff:c000:201]:80"),
        ("192.0.2.1", "64:ff9b::192.0.2.1"),
        ("192.0.2.1", " 192.0.2.1 "),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("2001:db8:1:2::1", "[2001:0DB8:0001:0002::7]:443"),
        ("2001:db8:1:2::1", "2001:db8:1:2::9%eth0"),
        ("[::1]:80", "::1"),
    ],
)
def test_addresses_of_one_client(address: str, same: str) -> None:
    """Ports, zones, spellings and the addresses of one /64 are one client."""
    assert client_of(address) == client_of(same)
    limits = FailureThrottle("2/hour", "")
    limits.record(address, "a")
    limits.record(same, "a")
    assert limits.check(address, "a") is not None


@given(st.text())
def test_any_text_names_a_client(address: str) -> None:
    """No text is an error."""
    assert client_of(client_of(address)) is not None


@given(st.ip_addresses(v=4).map(str) | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", fullmatch=True))
@example("01.2.3.4")
@example("1.2.3.256")
@example("1.2.3")
@example("\u0661.2.3.4")
def test_an_ipv4_address_is_its_own_client(address: str) -> None:
    """What ``ipaddress`` does not accept is unchanged, too."""
    assert client_of(address) == address
    with suppress(ValueError):
        assert str(ip_address(address)) == address
