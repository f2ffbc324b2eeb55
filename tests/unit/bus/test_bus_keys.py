import pytest

from headrace_bus import BusSettings, ModelKey, acl_rules
from headrace_bus.acl import user_name
from headrace_bus.keys import key_part, key_prefix, wake_channel


def test_a_model_names_its_keys_and_channel() -> None:
    model = ModelKey("platform", "qwen3-8b.q4")
    assert str(model) == "platform/qwen3-8b.q4"
    assert key_prefix(model) == "headrace:{platform/qwen3-8b.q4}:"
    assert wake_channel(model) == "headrace:wake:platform/qwen3-8b.q4"
    assert ModelKey.parse(str(model)) == model


@pytest.mark.parametrize(
    "part", ["", "*", "a*", "a?", "[ab]", "a}", "{a", "a/b", "a b", "A", "a\n", "-a", "ä", "a" * 300]
)
def test_a_name_that_could_widen_an_acl_pattern_is_refused(part: str) -> None:
    for model in (ModelKey(part, "m"), ModelKey("ns", part)):
        for name in (key_prefix, wake_channel, acl_rules):
            with pytest.raises(ValueError, match="cannot be part"):
                name(model)


@pytest.mark.parametrize("text", ["", ":", "a:b", "a b", "{", "a" * 300, "a\n"])
def test_the_last_part_of_a_key_has_no_separator(text: str) -> None:
    with pytest.raises(ValueError):
        key_part(text)


@pytest.mark.parametrize("name", ["default", "", "a b", "a\n"])
def test_a_grant_names_no_special_user(name: str) -> None:
    with pytest.raises(ValueError):
        user_name(name)


def test_what_has_no_slash_is_no_model() -> None:
    with pytest.raises(ValueError):
        ModelKey.parse("qwen")


def test_settings_show_no_secret() -> None:
    shown = repr(BusSettings("redis://user:from-url@host:6379/0", username="runner", password="beside-it"))
    assert "from-url" not in shown
    assert "beside-it" not in shown
