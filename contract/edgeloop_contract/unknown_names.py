"""Which names in a piece of JSON a type does not know: fields, kinds and choices that a later release may have added."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

__all__ = ["unknown_names"]


def unknown_names(raw: object, kind: Any) -> list[str]:
    """Where each unknown name stands and what it is, in words. `raw`: decoded JSON; `kind`: a type that msgspec understands."""
    return _walk(raw, inspect.type_info(kind), "")


def _walk(raw: Any, kind: Any, where: str) -> list[str]:
    if isinstance(kind, inspect.Metadata):
        return _walk(raw, kind.type, where)
    if isinstance(kind, inspect.UnionType):
        return _union(raw, kind, where)
    if isinstance(kind, inspect.StructType) and isinstance(raw, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        strict = kind.cls.__struct_config__.forbid_unknown_fields  # elsewhere a later release's fields are ignored
        names = [f"a field {where}{name!r}" for name in raw if strict and name not in fields and name != kind.tag_field]
        for name in raw.keys() & fields.keys():
            names += _walk(raw[name], fields[name], f"{where}{name}.")
        return sorted(names)
    if isinstance(kind, inspect.ListType) and isinstance(raw, list):
        return [name for i, item in enumerate(raw) for name in _walk(item, kind.item_type, f"{where}{i}.")]
    if isinstance(kind, inspect.DictType) and isinstance(raw, dict):
        return [name for key, item in raw.items() for name in _walk(item, kind.value_type, f"{where}{key}.")]
    if isinstance(kind, inspect.LiteralType) and isinstance(raw, str) and raw not in kind.values:
        return [f"{raw!r} at {where.rstrip('.')}"]
    if isinstance(kind, inspect.EnumType) and isinstance(raw, str) and raw not in {choice.value for choice in kind.cls}:
        return [f"{raw!r} at {where.rstrip('.')}"]
    return []


def _union(raw: Any, kind: inspect.UnionType, where: str) -> list[str]:
    structs = [t for t in kind.types if isinstance(t, inspect.StructType)]
    if isinstance(raw, dict) and structs:
        field = structs[0].tag_field
        if field is None:
            return _walk(raw, structs[0], where)
        tag = raw.get(field)
        chosen = next((t for t in structs if t.tag == tag), None)
        if chosen is not None:
            return _walk(raw, chosen, where)
        return [f"{field} {tag!r} at {where.rstrip('.')}"] if isinstance(tag, str) else []
    others = [t for t in kind.types if not isinstance(t, inspect.StructType | inspect.NoneType)]
    return _walk(raw, others[0], where) if len(others) == 1 and raw is not None else []
