"""Every key of a recipe as Markdown: its type, default and meaning, from the JSON schema."""

from __future__ import annotations

from typing import Any

from seqdistill.recipe import json_schema


def recipe_keys() -> str:
    """One table a section, in the order of the schema."""
    schema = json_schema()
    lines = [
        "# Recipe keys",
        "",
        "Every key that a recipe may set, as `seqdistill recipe schema` describes it to editors. "
        "A key is written `section.key=value` on the command line.",
        "",
    ]
    top = {name: field for name, field in _fields(schema) if _section(field, schema) is None}
    lines += _table("", top, schema)
    for name, field in _fields(schema):
        section = _section(field, schema)
        if section is not None:
            lines += _section_lines(name, section, schema)
    return "\n".join(lines) + "\n"


def _fields(section: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(section.get("properties", {}).items())


def _section(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """The section that the field is, if it is one: an object with keys of its own."""
    reference = field.get("$ref") or (field.get("allOf") or [{}])[0].get("$ref")
    if reference is None:
        return None
    found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return found if "properties" in found and "start" not in found["properties"] else None


def _section_lines(path: str, section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    lines = [f"## `{path}`", "", " ".join(section.get("description", "").split()), ""]
    inner = [(name, field) for name, field in _fields(section)]
    lines += _table(f"{path}.", {n: f for n, f in inner if _section(f, schema) is None}, schema)
    for name, field in inner:
        below = _section(field, schema)
        if below is not None:
            lines += _section_lines(f"{path}.{name}", below, schema)
    return lines


def _table(prefix: str, fields: dict[str, dict[str, Any]], schema: dict[str, Any]) -> list[str]:
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        default = field.get("default")
        shown = "" if default is None else f"`{_plain(default)}`"
        values = _values(field, schema).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {values} | {shown} | {meaning} |")
    return [*lines, ""]


def _plain(value: object) -> str:
    return str(value).replace("True", "true").replace("False", "false")


def _values(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """What the key takes, in a few words."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    for several in ("anyOf", "oneOf"):
        if several in field:
            kinds = [_values(one, schema) for one in field[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return _values(schema["$defs"][name], schema)
    kind = field.get("type", "")
    if kind == "array":
        items = field.get("items", {})
        return f"list of {_values(items, schema)}" if items else "list"
    limits = [
        f"{sign} {field[key]}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field
    ]
    names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    shown = names.get(kind, kind) if isinstance(kind, str) else "value"
    return " ".join([shown, *limits])
