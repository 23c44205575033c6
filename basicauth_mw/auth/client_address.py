"""The client that an address belongs to, for throttling."""

from __future__ import annotations

from typing import Final

_MAX_ADDRESS: Final = 100  # an IPv6 address with zone and port is shorter
_HOLD_IPV4: Final = (bytes(10) + b"\xff\xff", bytes.fromhex("0064ff9b") + bytes(8))  # RFC 4291, RFC 6052


def client_of(address: str) -> str:
    """The client that an address belongs to: the IPv4 address, or the /64 of an IPv6 address.

    A client with one address of a /64 usually controls all of them. A port, a zone and the IPv6 forms of an
    IPv4 address (mapped, or translated by NAT64) are left out.

    Args:
        address: As the server gives it.

    Returns:
        The same text for all addresses of one client. What is not an IP address is returned unchanged.
    """
    # Digits and dots are an IPv4 address in its only form, or none; ipaddress would take ten times as long.
    if len(address) > _MAX_ADDRESS or address.replace(".", "").isdecimal():
        return address
    from ipaddress import IPv4Address, ip_address  # not when this module is imported: few addresses need it

    text = address.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    packed = ip.packed
    if packed.startswith(_HOLD_IPV4):
        return str(IPv4Address(packed[12:]))
    return packed[:8].hex()
