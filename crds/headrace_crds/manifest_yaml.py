"""YAML documents with the line of every field, read as strictly as the API server reads them.

Values come out as JSON has them: a bare date stays text, a repeated key is a mistake. Pure.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""Keys and indices from a document's root."""

NODES_LIMIT: Final = 200_000
"""Of one document, aliases followed: a small text can name itself into a large tree."""


class UnreadableError(ValueError):
    """The text is not YAML, or not of the kind that becomes JSON. ``line`` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass
class Document:
    """``lines`` has the line of each path that occurs."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the path or of the nearest ancestor that is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def part(self, *path: str | int) -> "Document":
        """The document below a path."""
        value = self.value
        for step in path:
            value = value[step]
        lines = {each[len(path) :]: line for each, line in self.lines.items() if each[: len(path)] == path}
        return Document(value, lines)


def read(text: str) -> Iterator[Document]:
    """Every document that is not empty. Raises UnreadableError at the first that cannot be read."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = Document(None)
            document.value = _Reader(loader, document.lines).read(node, ())
            if document.value is not None:
                yield document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableError(error.problem or str(error), mark.line + 1 if mark else 1) from error
    except yaml.YAMLError as error:
        raise UnreadableError(str(error), 1) from error
    finally:
        loader.dispose()


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, lines: dict[Path, int]) -> None:
        self._loader = loader
        self._lines = lines
        self._left = NODES_LIMIT

    def read(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        self._left -= 1
        if self._left < 0 or len(path) > 100:
            raise UnreadableError("the document is too large or too deep", line)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        value = self._loader.construct_object(node)
        if not isinstance(value, str | int | float | bool | None):
            raise UnreadableError(f"{node.tag} has no place in a manifest", line)
        return value

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        repeated = _repeated(node)
        self._loader.flatten_mapping(node)  # the merge key <<
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UnreadableError(f"the key {key!r} is not text: write it in quotes", line)
            if key in repeated:
                raise UnreadableError(f"{key} is set twice in the same place: remove one", line)
            self._lines[(*path, key)] = line
            found[key] = self.read(value_node, (*path, key))
        return found


def _repeated(node: yaml.MappingNode) -> set[Hashable]:
    seen: set[Hashable] = set()
    twice: set[Hashable] = set()
    for key, _ in node.value:
        (twice if key.value in seen else seen).add(key.value)
    return twice - {"<<"}
