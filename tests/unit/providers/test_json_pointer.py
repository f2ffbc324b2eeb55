"""JSON Pointers: the examples of RFC 6901, and what is no pointer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.providers.json_pointer import read_pointer

# RFC 6901, section 5.
DOCUMENT: dict[str, Any] = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_rfcs_examples(pointer: str, found: Any) -> None:
    assert read_pointer(pointer, "f").find(DOCUMENT) == found


@pytest.mark.parametrize(
    "pointer", ["/foo/2", "/foo/01", "/foo/+1", "/foo/-1", "/foo/¹", "/foo/", "/foo/0/x", "/x/y", "/foo/99999999999"]
)
def test_where_nothing_is_nothing_is_found(pointer: str) -> None:
    assert read_pointer(pointer, "f").find(DOCUMENT) is None


def test_escapes_are_resolved_once() -> None:
    assert read_pointer("/~01", "f").find({"~1": "tilde", "/": "slash"}) == "tilde"


@pytest.mark.parametrize(
    ("pointer", "says"),
    [("a", "begins with /"), ("/foo/-", "behind the end"), ("/a~b", "~0"), ("/a~2", "~0"), ("/~", "~0")],
)
def test_what_is_no_pointer_is_refused_by_name(pointer: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"response\.text: ") as refused:
        read_pointer(pointer, "response.text")
    assert says in str(refused.value)


@given(st.lists(st.text().filter(lambda key: key != "-"), max_size=4))
def test_any_key_can_be_pointed_to(keys: list[str]) -> None:
    document: Any = "here"
    for key in reversed(keys):
        document = {key: document}
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)
    assert read_pointer(pointer, "f").find(document) == "here"
