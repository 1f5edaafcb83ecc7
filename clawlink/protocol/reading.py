"""Outside data to structs: decode JSON to a type, and take null in an optional field as if it were left out.

How deep JSON nests is told from its bytes, before any reader builds it.
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Any, TypeVar, cast

import msgspec

from clawlink.domain.dense_json import MAX_PARTS, read_object, require_sound, split
from clawlink.errors import BadRequest
from clawlink.protocol.invalid import bad_field

T = TypeVar("T")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def read_json(body: bytes, kind: type[T]) -> T:
    """Read a body as ``kind``. Raises BadRequest naming the field, msgspec.DecodeError or UnicodeDecodeError.

    A dense body is for ``read_dense``.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        ask: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        return _read_again(body, kind, error)
    return ask


def read_dense(body: bytes, kind: type[T]) -> T:
    """Read a body of very many parts: values that the relay only passes on stay as they came.

    Raises what ``read_json`` raises.
    """
    if not _is_struct(kind):
        raise BadRequest(
            f"a body may have {MAX_PARTS} parts here: arrays, objects and commas; share large data as a file",
            limit=MAX_PARTS,
        )
    try:
        light, dense = split(body)
        fields = msgspec.json.decode(light)
    except msgspec.ValidationError as error:
        raise bad_field(error, kind) from None
    known = _any_json(cast("Any", kind))
    for name, value in dense.items():
        if name in known:  # a field that is not known is not looked at
            fields[name] = passed_on(value, name, kind)
    return read_fields(fields, kind)


def passed_on(value: msgspec.Raw, name: str, kind: Any) -> Any:
    """Return a dense value as a field of a request takes it: an object of any fields has its own dense values.

    Raises BadRequest if the field takes no such value, or if no reader could build it.
    """
    takes = _any_json(kind).get(name, object)
    if takes is None:
        raise BadRequest(
            f"{name} may have {MAX_PARTS} parts: arrays, objects and commas; share large data as a file",
            field=name,
            limit=MAX_PARTS,
        )
    require_sound(value, name)
    return read_object(bytes(value)) if takes is dict else value


def why_no_json(what: str, sent: bytes | str, error: Exception) -> str:
    """Say why a body or a frame is no JSON."""
    body = sent.encode("utf-8", "replace") if isinstance(sent, str) else sent
    said, end = str(error), body.rstrip()[-1:]
    if not end:
        return f"{what} is empty; send an object as JSON"
    # The parser reads an escape of a high surrogate together with the next one, also if there is none.
    if "surrogate" in said or ("truncated" in said and end in (b"}", b"]", b'"') and b"\\ud" in body.lower()):
        return f"{what} has half of a surrogate pair (\\ud800 to \\udfff), which is no character; send both or none"
    if "truncated" in said:
        return f"{what} ends before its JSON does; send all of it"
    return f"{what} is not JSON in UTF-8: {said}"


def _read_again(body: bytes, kind: type[T], error: msgspec.ValidationError) -> T:
    """Read a body that was refused once more, without its nulls: few bodies have any."""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number out of range, which the first reading has named
        raise bad_field(error, kind) from None
    left = without_nulls(fields, kind) if isinstance(fields, dict) and _is_struct(kind) else fields
    if left == fields:
        raise bad_field(error, kind) from None
    return read_fields(left, kind)


def read_fields(fields: dict[str, Any], kind: type[T]) -> T:
    """Read the fields of an object as ``kind``. Raises BadRequest naming the field."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        left = without_nulls(fields, kind)
        if len(left) == len(fields):
            raise bad_field(error, kind) from None
    return read_fields(left, kind)


def without_nulls(fields: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the object without optional fields that are null: few have any."""
    optional = optional_fields(kind)
    return {name: value for name, value in fields.items() if value is not None or name not in optional}


def optional_fields(kind: Any) -> frozenset[str]:
    """Return the names of the fields that need not be given."""
    return _optional_fields(kind)


@cache
def _optional_fields(kind: Any) -> frozenset[str]:
    return frozenset(f.encode_name for f in msgspec.structs.fields(kind) if not f.required)


def _is_struct(kind: Any) -> bool:
    """Return True if the kind has fields, and is not any JSON."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def _any_json(kind: Any) -> dict[str, type[Any] | None]:
    """Return each field of a request, with ``object`` for those of any JSON, and ``dict`` for objects of any fields."""
    return {f.encode_name: _takes(msgspec.inspect.type_info(f.type)) for f in msgspec.structs.fields(kind)}


def _takes(found: msgspec.inspect.Type) -> type[Any] | None:
    if isinstance(found, msgspec.inspect.Metadata):
        return _takes(found.type)
    if isinstance(found, msgspec.inspect.DictType) and isinstance(found.value_type, msgspec.inspect.AnyType):
        return dict
    return object if isinstance(found, msgspec.inspect.AnyType) else None


# -- nesting ---------------------------------------------------------------------------------------------------------

_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_BITS = bytes.maketrans(b"[{]}", b"1100")


def _of_eight(bits: int) -> tuple[int, int]:
    """Return the net depth and the highest depth of eight brackets; a set bit opens, a clear bit closes."""
    depths = list(accumulate(1 if bits >> place & 1 else -1 for place in range(7, -1, -1)))
    return depths[-1], max(depths)


_NET: list[int] = [_of_eight(bits)[0] for bits in range(256)]
_HIGHEST: list[int] = [_of_eight(bits)[1] for bits in range(256)]
_RISES = bytes(max(0, highest) for highest in _HIGHEST)
_UP_TO_EIGHT = bytes(range(9))


def is_shallow(text: bytes, levels: int) -> bool:
    """Return True if the brackets of a JSON text nest at most ``levels`` deep.

    Each step passes over the text once, so the time grows with its length and with nothing else. Text that is not JSON
    may count as shallow; a reader refuses it before it reaches the deeper brackets.
    """
    # ``replace`` looks for a byte several times as fast as ``count``.
    few = levels + 1
    if 2 * len(text) - len(text.replace(b"[", b"", few)) - len(text.replace(b"{", b"", few)) <= levels:
        return True
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Only strings with brackets are left. Of the pieces between two quotes, every second is the inside of a string.
    marks = text.translate(None, _NOT_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    if not marks:
        return True
    brackets = marks.translate(_BITS)
    padded = brackets + b"0" * (-len(brackets) % 8)
    eights = int(padded, 2).to_bytes(len(padded) // 8, "big")
    return _is_shallow(eights, levels)


def _is_shallow(eights: bytes, levels: int) -> bool:
    starts = list(accumulate(map(_NET.__getitem__, eights), initial=0))
    highest = max(starts)
    # Between two starts, eight brackets rise at most four above the higher.
    if highest > levels or highest + 4 <= levels:
        return highest <= levels
    try:
        depths = bytes(starts[:-1])
    except ValueError:  # below 0, which is no JSON
        return all(start + _HIGHEST[eight] <= levels for start, eight in zip(starts, eights, strict=False))
    # Where eight brackets rise above the limit, the sum of two bytes is above 8. One addition makes all sums.
    near = bytes(min(8, max(0, depth + 8 - levels)) for depth in range(256))
    sums = int.from_bytes(depths.translate(near), "big") + int.from_bytes(eights.translate(_RISES), "big")
    return not sums.to_bytes(len(eights), "big").translate(None, _UP_TO_EIGHT)
