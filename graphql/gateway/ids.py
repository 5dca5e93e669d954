"""Node ids: base64 of `Type:key`. Clients treat them as opaque; the services never see them."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode

from kit.errors import FieldViolation, InvalidInput


def to_global(type_name: str, key: str) -> str:
    """The Node id of an object."""
    return b64encode(f"{type_name}:{key}".encode()).decode()


def split_global(text: str) -> tuple[str, str] | None:
    """Type and key of a Node id, or None when the text is none."""
    try:
        type_name, colon, key = b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (type_name, key) if colon and type_name and key else None


def from_global(text: str, type_name: str, field: str = "id") -> str:
    """The key in a Node id of that type. Raises InvalidInput naming the field for anything else."""
    parts = split_global(text)
    if parts is None or parts[0] != type_name:
        raise InvalidInput(violations=[FieldViolation(field, "ID_INVALID", f"not the id of a {type_name}")])
    return parts[1]
