"""What the errors of services tell: the HTTP status, and whether asking again can help."""

from typing import Any

_CLIENT_ERRORS = range(400, 500)
# Timeout, conflict, too early, too many requests: the same request can succeed later.
_TRANSIENT = {408, 409, 425, 429}
# OpenAI's client raises this base class itself before a request is sent: there is no key.
_NOT_SENT = "OpenAIError"


def is_permanent(error: BaseException) -> bool:
    """Tell whether the same request would fail again: a wrong key, model or prompt."""
    status = status_of(error)
    if status is None:
        return type(error).__name__ == _NOT_SENT
    return status in _CLIENT_ERRORS and status not in _TRANSIENT


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, or None."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status_code"), (response, "status_code"), (error, "code")):
        status: Any = getattr(holder, name, None)
        if isinstance(status, int):
            return int(status)
    return None
