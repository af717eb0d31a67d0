"""Settings as read from YAML, where each value remembers the file and line that it came from.

Strict where YAML is lax: a key may stand once, `5e-4` is a number, `no` and `2024-01-01` are text,
there are no aliases and no tags that build objects. This module does not know which keys exist.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from seqdistill.core.errors import RecipeError

KeyPath = tuple[str | int, ...]
"""Where a value stands: the keys, and the positions in lists, that lead to it."""

MAX_BYTES = 2**18
"""Of a recipe file. One with every setting has about 20 kB; more is another file by mistake."""
_MAX_DEPTH = 32
_MAPPING_TAG = "tag:yaml.org,2002:map"
_SEQUENCE_TAG = "tag:yaml.org,2002:seq"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        [*"-+.0123456789"],
    ),
)
"""Which plain words are no text: as in YAML 1.2. (1.1 reads `5e-4` as text and `no` as false.)"""


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the rules above."""

    yaml_implicit_resolvers = {}  # noqa: RUF012
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """The next node; refuses aliases, which can nest without end, and what nests deeply."""
        problem = None
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not read"
        elif self._depth > _MAX_DEPTH:
            problem = f"values nest deeper than {_MAX_DEPTH} levels"
        if problem is not None:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        self._depth += 1
        node = super().compose_node(parent, index)  # type: ignore[arg-type]  # the stub is too narrow
        self._depth -= 1
        return node


class RecipeDumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes what YAML 1.1 or `RecipeLoader` would not read as text."""


for _name, _pattern, _first_characters in _SCALARS:
    for _class in (RecipeLoader, RecipeDumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first_characters
        )


@dataclasses.dataclass
class Settings:
    """Nested values, and for each path a phrase that says where it was written."""

    values: dict[str, object] = dataclasses.field(default_factory=dict)
    places: dict[KeyPath, str] = dataclasses.field(default_factory=dict)

    def place_of(self, path: KeyPath) -> str | None:
        """Where the value at `path`, or else the closest section around it, was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None

    def put(self, path: KeyPath, value: object, place: str) -> None:
        """Sets one value; sections on the way are made. A mapping is merged into a mapping.

        Raises KeyError, with the path so far as its argument, when the way leads through a value
        that is no section or past the end of a list.
        """
        parent: Any = self.values
        done: KeyPath = ()
        for key in path[:-1]:
            found = _key_in(parent, key, done)
            if isinstance(parent, dict) and parent.get(found) is None:
                parent[found] = {}
            parent, done = parent[found], (*done, found)
            self.places.setdefault(done, place)
        last = _key_in(parent, path[-1], done)
        done = (*done, last)
        inside = value if isinstance(value, dict) else ()
        self._lay(parent, last, done, value, {done: place, **{(*done, k): place for k in inside}})

    def merge(self, other: Settings) -> None:
        """Lays `other` over this: mappings are merged key by key, all else is replaced.

        An architecture of another `model_type` replaces the one before, whose keys it may not know.
        """
        for key, value in other.values.items():
            self._lay(self.values, key, (key,), value, other.places)

    def _lay(
        self,
        parent: Any,
        key: str | int,
        path: KeyPath,
        value: object,
        places: Mapping[KeyPath, str],
    ) -> None:
        """Lays a value over what stands at `path`, under `key` of its `parent`."""
        old = parent.get(key) if isinstance(parent, dict) else parent[key]
        if isinstance(old, dict) and isinstance(value, dict) and not _other_type(old, value):
            for inner, item in value.items():
                self._lay(old, inner, (*path, inner), item, places)
        else:
            for known in _paths_in(old, path):
                self.places.pop(known, None)
            parent[key] = value
        for known in _paths_in(value, path):
            if known in places:
                self.places[known] = places[known]


def _paths_in(value: object, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value, and those of all that it holds."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths_in(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _paths_in(inner, (*path, position))


def parse_value(text: str) -> object:
    """The YAML value of one override, such as 5, 5e-4, true, [1, 2] or {a: 1}.

    Raises RecipeError when the text is no YAML.
    """
    problems: list[str] = []
    settings = Settings()
    node = _composed(text, "value")
    value = None if node is None else _value_of(node, (), "value", settings, problems)
    if problems:
        raise RecipeError("; ".join(problems))
    return value


def parse_document(text: str, origin: str, problems: list[str]) -> Settings:
    """The settings in YAML `text`; `origin` names the file in messages.

    Appends a sentence to `problems` for each key that is repeated or no text. Raises RecipeError
    when the text is no YAML, or no mapping.
    """
    node = _composed(text, origin)
    settings = Settings()
    if node is None:
        return settings
    values = _value_of(node, (), origin, settings, problems)
    if not isinstance(values, dict):
        raise RecipeError(
            f"{origin}: a recipe must be a mapping of `key: value` lines, "
            f"got {str(values)[:60]!r}; begin with `preset: ...` or `data:`"
        )
    settings.values = values
    return settings


@functools.lru_cache(maxsize=64)  # a comparison reads the same presets again and again
def _composed(text: str, origin: str) -> yaml.Node | None:
    loader = None
    try:
        loader = RecipeLoader(text)  # reads the first characters already
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = origin if mark is None else f"{origin}, line {mark.line + 1}"
        raise RecipeError(
            f"{where}: a recipe must be valid YAML, got: {error.problem}; "
            "fix the indentation, quotes, colons or brackets there"
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{origin}, line {line}: a recipe must be plain text, got the character "
            f"{chr(int(error.character))!a}; remove it"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def _value_of(
    node: yaml.Node, path: KeyPath, origin: str, settings: Settings, problems: list[str]
) -> object:
    where = f"{origin}, line {node.start_mark.line + 1}"
    if path:
        settings.places.setdefault(path, where)
    if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING_TAG:
        return _mapping_of(node, path, origin, settings, problems)
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE_TAG:
        return [
            _value_of(child, (*path, position), origin, settings, problems)
            for position, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.ScalarNode):
        try:
            value: object = RecipeLoader("").construct_object(node)
        except ValueError:  # Python reads no number of thousands of digits
            problems.append(f"{where}: a number must have at most 18 digits, got more; lower it")
            return None
        except yaml.YAMLError:
            value = None
        else:
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
    problems.append(f"{where}: a value must be plain YAML, got the tag {node.tag!r}; remove it")
    return None


def _mapping_of(
    node: yaml.MappingNode, path: KeyPath, origin: str, settings: Settings, problems: list[str]
) -> dict[str, object]:
    found: dict[str, object] = {}
    for key_node, value_node in node.value:
        where = f"{origin}, line {key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(
                f"{where}: a key must be text, got a list or mapping; write `key: value`"
            )
            continue
        key: str = key_node.value
        if key in found:
            problems.append(
                f"{where}: a key must stand once, got {dotted((*path, key))} a second time (first: "
                f"{settings.places[(*path, key)]}); remove one of the two"
            )
            continue
        settings.places[(*path, key)] = where
        found[key] = _value_of(value_node, (*path, key), origin, settings, problems)
    return found


def dotted(path: KeyPath) -> str:
    """The path as users write it: `training.steps`, `objective.terms.0.beta`."""
    return ".".join(str(part) for part in path)


def _key_in(parent: object, key: str | int, path: KeyPath) -> str | int:
    """The key as `parent`, which is at `path`, has it: a name, or a position in a list."""
    if isinstance(parent, list) and str(key).isdecimal() and int(key) < len(parent):
        return int(key)
    if isinstance(parent, dict):
        return str(key)
    raise KeyError((*path, key))


def _other_type(old: Mapping[str, object], new: Mapping[str, object]) -> bool:
    return "model_type" in new and new["model_type"] != old.get("model_type")
