"""The client secret of an intent: derived from the server's key, so it is never stored and never logged."""

import base64
import hashlib
import hmac

from app.core.ids import Id, typeid


def client_secret(server_key: bytes, intent_id: Id) -> str:
    """`pi_…_secret_…`; opens this one intent to a browser."""
    public = typeid("pi", intent_id)
    mac = hmac.digest(server_key, b"client_secret:" + public.encode(), hashlib.sha256)
    return f"{public}_secret_{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def is_client_secret(server_key: bytes, intent_id: Id, given: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(client_secret(server_key, intent_id).encode(), given.encode("utf-8", "replace"))
