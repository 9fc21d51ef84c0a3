"""What the errors of services tell: the HTTP status, and whether asking again can help."""

from typing import Any

_CLIENT_ERRORS = range(400, 500)
# Timeout, conflict, too early, too many requests: the same request can succeed later.
_TRANSIENT = {408, 409, 425, 429}
# OpenAI's client raises this base class itself before a request is sent: there is no key.
_NOT_SENT = "OpenAIError"
# The key, the account, the permission; the model or the address.
_REFUSED = {401, 402, 403, 404}
_USED_UP = "insufficient_quota"
_MODERATED = ("flagged", "moderation")


def is_permanent(error: BaseException) -> bool:
    """Tell whether the same request would fail again: a wrong key, model or prompt."""
    if refuses_all(error):
        return True
    status = status_of(error)
    return status in _CLIENT_ERRORS and status not in _TRANSIENT


def refuses_all(error: BaseException) -> bool:
    """Tell whether other requests would fail as well: a wrong key or model, a used-up quota."""
    status = status_of(error)
    words = f"{getattr(error, 'code', '')} {error}".lower()
    if status == 403 and any(word in words for word in _MODERATED):  # this one text, as some say it
        return False
    return (
        status in _REFUSED
        or _USED_UP in words
        or (status is None and type(error).__name__ == _NOT_SENT)
    )


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, or None."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (response, "status_code"), (error, "code")):
        status: Any = getattr(holder, name, None)
        if isinstance(status, int):
            return int(status)
    return None
