"""The chart's `weights` as the operator reads it."""

import json
from typing import Any

import pytest

from headrace_operator.decide.snapshots import WeightsSettings
from headrace_operator.weights_settings import read_weights


def test_nothing_is_the_default() -> None:
    assert read_weights("") == read_weights("{}") == WeightsSettings()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hostPath": []}, "hostPath: extra_forbidden"),
        ({"hostPaths": ["srv/models"]}, "hostPaths.0: string_pattern_mismatch"),
        ({"hostPaths": ["/srv/../etc"]}, "hostPaths.0"),
        ({"hostPaths": ["/"]}, "hostPaths.0"),
        ({"cache": {"nodeDirectory": "/var/../x"}}, "cache.nodeDirectory"),
        ({"allowedHosts": ["169.254.169.254"]}, "allowedHosts"),
        ({"parallel": 0}, "parallel"),
        ({"huggingFaceEndpoint": "https://user@hub.example"}, "huggingFaceEndpoint"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_does_not_read_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="HEADRACE_WEIGHTS: ") as refused:
        read_weights(json.dumps(wrong))
    assert says in str(refused.value)
