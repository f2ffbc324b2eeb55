"""Which addresses are ordinary public ones, and which no list opens."""

import pytest

from headrace_crds.addresses import is_never, is_public
from tests.unit.address_vectors import NEVER, NOT_PUBLIC, PUBLIC


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_an_ordinary_public_one(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_ordinary_public_address(address: str) -> None:
    assert is_public(address)
    assert not is_never(address)


@pytest.mark.parametrize("address", NEVER)
def test_an_address_of_a_metadata_service(address: str) -> None:
    assert is_never(address)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "127.0.0.1", "169.253.1.1", "::1", "fd00::1", "fec0::1", "8.8.8.8", ""]
)
def test_other_addresses_may_be_allowed(address: str) -> None:
    assert not is_never(address)
