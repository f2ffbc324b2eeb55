"""values.yaml and values.schema.json say the same: every value is described, and every description is of a value."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[3] / "charts/headrace"
TEXT = (CHART / "values.yaml").read_text(encoding="utf-8")
VALUES = yaml.safe_load(TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def described(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Every property of the schema by its path; free-form maps end there."""
    found = {}
    for name, part in schema.get("properties", {}).items():
        found[f"{path}.{name}".removeprefix(".")] = part
        found |= described(part, f"{path}.{name}")
    return found


def defaults(values: dict[str, Any], known: set[str], path: str = "") -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        here = f"{path}.{name}".removeprefix(".")
        found[here] = value
        if isinstance(value, dict) and any(k.startswith(f"{here}.") for k in known):
            found |= defaults(value, known, here)
    return found


DESCRIBED = described(SCHEMA)
DEFAULTS = defaults(VALUES, set(DESCRIBED))


def test_schema_and_values_have_the_same_names() -> None:
    assert set(DESCRIBED) - {"global"} == set(DEFAULTS)
    assert len(DEFAULTS) > 60


@pytest.mark.parametrize("path", DESCRIBED)
def test_every_property_is_described_and_closed(path: str) -> None:
    part = DESCRIBED[path]
    assert len(part["description"].split()) >= 2
    assert part["description"].endswith(".")
    if "properties" in part:
        assert part["additionalProperties"] is False


def test_the_root_is_closed() -> None:
    assert SCHEMA["additionalProperties"] is False


def test_every_value_is_commented_where_it_stands() -> None:
    """Groups and what Kubernetes itself documents need no comment."""
    known = {
        "podAnnotations",
        "podLabels",
        "nodeSelector",
        "tolerations",
        "affinity",
        "annotations",
        "requests",
        "limits",
    }
    lines = TEXT.splitlines()
    bare = []
    for number, line in enumerate(lines):
        key, colon, rest = line.strip().partition(":")
        if not colon or line.strip().startswith("#") or key in known:
            continue
        is_group = not rest.strip()
        if not is_group and not lines[number - 1].strip().startswith("#"):
            bare.append(line)
    assert bare == []


def test_images_are_pinned() -> None:
    assert VALUES["images"]["redis"].rpartition(":")[2].count(".") == 2
    patch = tuple(int(part) for part in VALUES["images"]["redis"].rpartition(":")[2].removesuffix("-alpine").split("."))
    assert patch >= (7, 4, 6), "CVE-2025-49844"
    assert VALUES["images"]["operator"] == VALUES["images"]["runner"] == ""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"]
    assert chart["appVersion"]


def required(schema: dict[str, Any], path: str = "") -> set[str]:
    here = {f"{path}.{name}".removeprefix(".") for name in schema.get("required", ())}
    inner = [required(part, f"{path}.{name}") for name, part in schema.get("properties", {}).items()]
    return here.union(*inner)


def test_null_is_refused_where_templates_need_a_value() -> None:
    """Helm drops what is null before it looks at the schema."""
    groups = {path for path, part in DESCRIBED.items() if part.get("properties") and path != "global"}
    scalars = {
        path for path, value in DEFAULTS.items() if value not in (None, "") and not isinstance(value, dict | list)
    }
    assert required(SCHEMA) == groups | scalars
    assert {"quota", "quota.default", "facade.defaultTtlSeconds", "retention.perCluster"} <= required(SCHEMA)


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ("hooks.internal", True),
        ("hooks.internal:1", True),
        ("hooks.internal:65535", True),
        ("hooks.internal:9999", True),
        ("hooks.internal:59999", True),
        ("hooks.internal:0", False),
        ("hooks.internal:080", False),
        ("hooks.internal:65536", False),
        ("hooks.internal:70000", False),
        ("hooks.internal:99999", False),
        ("10.0.0.1:80", True),
        ("169.254.example", True),
        ("1169.254.169.254.example", True),
        ("169.254.169.254", False),
        ("169.254.0.1:80", False),
        ("168.63.129.16", False),
        ("100.100.100.200:8080", False),
        ("192.0.0.192", False),
        ("[fd00::1]", True),
        ("[fd00:ec2::253]", True),
        ("[fd00:ec2::254]", False),
        ("[fd00:0ec2:0:0:0:0:0:254]:80", False),
        ("[fe80::1]", False),
        ("[febf::1]:80", False),
        ("[fec0::1]", True),
    ],
)
def test_which_receivers_may_be_allowed(entry: str, passes: bool) -> None:
    schema = DESCRIBED["webhooks.allowedHosts"]["items"]
    found = bool(re.search(schema["pattern"], entry)) and not re.search(schema["not"]["pattern"], entry)
    assert found is passes
