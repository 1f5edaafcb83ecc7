"""Signatures of cards: ES256 over the canonical form of RFC 8785. They need the extra ``clawlink-relay[sign]``."""

from __future__ import annotations

import base64
import hashlib
import itertools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from clawlink import private
from clawlink.doors.a2a.wire import v0_3
from clawlink.errors import BadRequest, ClawLinkError, NameTaken
from clawlink.version import extra_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DEFAULT_FILE = "a2a-key.pem"
ALGORITHM = "ES256"
_SIZE = 32
Json = dict[str, Any]


class _Protected(Struct, frozen=True):
    alg: str
    kid: str = ""
    jku: str = ""


class _Jwk(Struct, frozen=True):
    kty: str
    crv: str = ""
    x: str = ""
    y: str = ""


class _Jwks(Struct, frozen=True):
    keys: list[_Jwk]


class Claim(Struct, frozen=True):
    """A signature that a card has: the key's id, and where the card says that the key is."""

    kid: str
    jku: str
    protected: str
    signature: str


def available() -> bool:
    """Return True if the packages for signatures are there."""
    return find_spec("cryptography") is not None and find_spec("rfc8785") is not None


def require_extra() -> None:
    """Refuse what needs signatures where their packages are missing. Raises ClawLinkError."""
    if not available():
        raise ClawLinkError(f"signatures need more packages; in a checkout of ClawLink: {extra_command('sign')}")


class Key:
    """The private key with which a relay signs its cards."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key
        numbers = key.public_key().public_numbers()
        x, y = (_text(number.to_bytes(_SIZE, "big")) for number in (numbers.x, numbers.y))
        self.kid = thumbprint(x, y)
        self.jwk: Json = {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "alg": ALGORITHM, "use": "sig"}

    def sign(self, card: Json, jku: str) -> Json:
        """Return a card with its signature."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        header = {"alg": ALGORITHM, "typ": "JOSE", "kid": self.kid, "jku": jku}
        protected = _text(msgspec.json.encode(header))
        r, s = decode_dss_signature(self._key.sign(_signed(protected, card), ECDSA(SHA256())))
        signature = _text(r.to_bytes(_SIZE, "big") + s.to_bytes(_SIZE, "big"))
        return {**card, "signatures": [{"protected": protected, "signature": signature}]}


def make_key(path: Path) -> Key:
    """Make a key in a file that only its owner may read. Raises NameTaken if the file is there, OSError."""
    require_extra()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        raise NameTaken(f"{path} is there already; cards signed with another key count no longer", field="file")
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    private.make_folder(path.parent, 0o755)
    private.write(path, pem)
    return Key(key)


def read_key(path: Path) -> Key:
    """Read the key of a file. Raises BadRequest if it is none, OSError."""
    require_extra()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadRequest(f"{path} is no private key as PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest(f"{path} is no key of P-256; make one with: clawlink a2a key")
    return Key(key)


def claims(card: Json) -> list[Claim]:
    """Return the signatures of a card that this module can check."""
    found = []
    given = card.get("signatures")
    for one in given if isinstance(given, list) else ():
        try:
            protected, signature = one["protected"], one["signature"]
            header = msgspec.json.decode(_bytes(protected), type=_Protected)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        if header.alg == ALGORITHM and header.kid and header.jku:
            found.append(Claim(header.kid, header.jku, protected, str(signature)))
    return found


def verify(card: Json, claim: Claim, keys: bytes) -> str:
    """Check a signature with a set of keys; return the thumbprint of its key. Raises BadRequest."""
    require_extra()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        known = msgspec.json.decode(keys, type=_Jwks).keys
        signature = _bytes(claim.signature)
    except ValueError:
        raise BadRequest(f"the keys at {claim.jku} cannot be read", field="signatures") from None
    r, s = int.from_bytes(signature[:_SIZE], "big"), int.from_bytes(signature[_SIZE:], "big")
    # Servers add the fields of 0.3 to a card that they have signed. Nothing here reads these.
    texts = [_signed(claim.protected, one) for one in (card, v0_3.without(card))]
    for jwk, text in itertools.product(known, texts):
        if (jwk.kty, jwk.crv) != ("EC", "P-256") or len(signature) != 2 * _SIZE:
            continue
        try:
            x, y = (int.from_bytes(_bytes(text), "big") for text in (jwk.x, jwk.y))
            public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            public.verify(encode_dss_signature(r, s), text, ec.ECDSA(SHA256()))
        except (ValueError, InvalidSignature):
            continue
        return thumbprint(jwk.x, jwk.y)
    raise BadRequest("the signature does not fit the card and its key: one of them was changed", field="signatures")


def thumbprint(x: str, y: str) -> str:
    """Return the RFC 7638 thumbprint of a public key of P-256."""
    return _text(hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest())


def canonical(card: Json) -> bytes:
    """Return the canonical form of a card: without signatures and defaults. Raises BadRequest."""
    import rfc8785

    try:
        return rfc8785.dumps(_without_defaults({name: one for name, one in card.items() if name != "signatures"}) or {})
    except (rfc8785.CanonicalizationError, RecursionError):
        raise BadRequest("the card has numbers or texts without a canonical form", field="signatures") from None


def _without_defaults(value: Any) -> Any:
    """Return JSON without the defaults of the protocol's buffers: null, all that is empty, and a false ``required``."""
    if isinstance(value, dict):
        kept = {
            name: left
            for name, one in value.items()
            if not (name == "required" and one is False) and (left := _without_defaults(one)) is not None
        }
        return kept or None
    if isinstance(value, list):
        return [left for one in value if (left := _without_defaults(one)) is not None] or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return None if value == "" else value


def _signed(protected: str, card: Json) -> bytes:
    return f"{protected}.{_text(canonical(card))}".encode()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    if not isinstance(text, str) or not text.isascii():
        raise ValueError("no base64url")
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
