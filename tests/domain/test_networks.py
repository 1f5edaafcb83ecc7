"""Networks: what is of the public internet, and what only looks so."""

from __future__ import annotations

import pytest

from clawlink.domain.networks import address, is_in, is_loopback, is_public, networks

PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a00:1", "::127.0.0.1"),
    *("64:ff9b:1::a00:1", "2001:0:0a00:1::1", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    *("192.0.0.8", "3fff::1", "fec0::1"),
)
PUBLIC = ("1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101")


def test_addresses_of_private_networks_are_not_public_however_they_are_written() -> None:
    for text, expected in (*((text, False) for text in PRIVATE), *((text, True) for text in PUBLIC)):
        found = address(text)
        assert found is not None, text
        assert is_public(found) is expected, text
    for text in ("b.example", "", "127.1", "0x7f000001"):
        assert address(text) is None, text


def test_a_named_network_has_its_addresses_also_where_another_carries_them() -> None:
    allowed = networks("10.0.0.0/8, fd00::/8")
    for text, expected in (
        ("10.1.2.3", True),
        ("::ffff:10.0.0.1", True),
        ("64:ff9b::a00:1", True),
        ("fd00::1", True),
        ("11.0.0.1", False),
        ("127.0.0.1", False),
    ):
        found = address(text)
        assert found is not None, text
        assert is_in(found, allowed) is expected, text
    assert networks("") == ()
    with pytest.raises(ValueError, match="10"):
        networks("10.0.0.0/40")


def test_this_machine_has_several_names() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost"):
        assert is_loopback(host), host
    for host in ("example.com", "10.0.0.1", "localhost.example.com", ""):
        assert not is_loopback(host), host
