"""Which IP addresses are ordinary public ones. An explicit table: `ipaddress.is_global` and `is_private` let NAT64,
6to4, IPv4-compatible and multicast addresses pass, and differ between Python versions.

Sources: the IANA special-purpose address registries for IPv4 and IPv6, and the addresses of clouds' metadata services.
"""

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

_NOT_PUBLIC_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT; 100.100.100.200 is Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, public by its number
        "169.254.0.0/16",  # link-local; 169.254.169.254 is most clouds' metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocols; 192.0.0.192 is Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_6: Final = IPv6Network("2000::/3")
"""All that is allocated. Outside: loopback, mapped and compatible IPv4, NAT64, unique local, link- and site-local."""
_NOT_PUBLIC_6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, Teredo and ORCHID among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
"""The upper half of an interface identifier whose lower half is an IPv4 address."""

_NEVER_4: Final = tuple(
    map(IPv4Network, ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"))
)
_NEVER_6: Final = tuple(map(IPv6Network, ("fe80::/10", "fd00:ec2::254/128")))
_HOLD_IPV4: Final = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Compatible, mapped, translated and NAT64 addresses: the lower half of the lower half is an IPv4 address."""


def is_never(text: str) -> bool:
    """Whether it is a link-local address or one of a cloud's metadata service, which hands out credentials to whoever
    asks: no allow-list opens these.
    """
    try:
        if ":" not in text:
            return any(IPv4Address(text) in network for network in _NEVER_4)
        address = IPv6Address(text)  # with or without a zone
    except AddressValueError:
        return False
    plain = IPv6Address(int(address))
    if any(plain in network for network in _HOLD_IPV4):
        return is_never(str(IPv4Address(int(plain) & 0xFFFFFFFF)))
    if plain.sixtofour is not None:
        return is_never(str(plain.sixtofour))
    return any(plain in network for network in _NEVER_6)


def is_public(text: str) -> bool:
    """Whether an address, as a resolver gives it, is one that anybody on the internet could reach under this number."""
    if "%" in text:
        return False
    try:
        if ":" not in text:
            return not any(IPv4Address(text) in network for network in _NOT_PUBLIC_4)
        address = IPv6Address(text)
    except AddressValueError:
        return False
    if address not in _UNICAST_6 or any(address in network for network in _NOT_PUBLIC_6):
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP
