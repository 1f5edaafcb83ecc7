"""Outside data to structs: decode JSON to a type, and take null in an optional field as if it were left out."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from clawlink.protocol.invalid import bad_field

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def read_json(body: bytes, kind: type[T]) -> T:
    """Read a body as ``kind``. Raises BadRequest naming the field, msgspec.DecodeError or UnicodeDecodeError."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        ask: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        return _read_again(body, kind, error)
    return ask


def _read_again(body: bytes, kind: type[T], error: msgspec.ValidationError) -> T:
    """Read a body that was refused once more, without its nulls: few bodies have any."""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number out of range, which the first reading has named
        raise bad_field(error) from None
    left = without_nulls(fields, kind) if isinstance(fields, dict) else fields
    if left == fields:
        raise bad_field(error) from None
    return read_fields(left, kind)


def read_fields(fields: dict[str, Any], kind: type[T]) -> T:
    """Read the fields of an object as ``kind``. Raises BadRequest naming the field."""
    try:
        return msgspec.convert(without_nulls(fields, kind), kind)
    except msgspec.ValidationError as error:
        raise bad_field(error) from None


def without_nulls(fields: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the object without optional fields that are null."""
    optional = optional_fields(kind)
    return {name: value for name, value in fields.items() if value is not None or name not in optional}


def optional_fields(kind: Any) -> frozenset[str]:
    """Return the names of the fields that need not be given."""
    return _optional_fields(kind)


@cache
def _optional_fields(kind: Any) -> frozenset[str]:
    return frozenset(f.encode_name for f in msgspec.structs.fields(kind) if not f.required)
