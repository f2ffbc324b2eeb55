"""A runner starts anew when its mounted credentials change, and only then."""

import asyncio
from collections.abc import Iterator

import pytest

from headrace_runner.rotation import until_rotated
from headrace_runner.settings import SettingsError


async def test_it_ends_at_the_first_other_url_and_not_before() -> None:
    answers: Iterator[str | SettingsError] = iter(["a", "a", SettingsError("being replaced"), "a", "b"])
    read: list[str] = []

    def url() -> str:
        answer = next(answers)
        if isinstance(answer, SettingsError):
            raise answer
        read.append(answer)
        return answer

    async with asyncio.timeout(5):
        await until_rotated(url, every_seconds=0)
    assert read == ["a", "a", "a", "b"]


async def test_without_a_change_it_never_ends() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await until_rotated(lambda: "a", every_seconds=0.001)
