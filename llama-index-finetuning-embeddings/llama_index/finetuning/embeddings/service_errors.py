"""What the errors of services tell: the HTTP status, whether asking again can help, and when."""

import inspect
import itertools
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

_CLIENT_ERRORS = frozenset(range(400, 500))
# Timeout, conflict, too early, too many requests: the same request can succeed later.
_TRANSIENT = {408, 409, 425, 429}
# OpenAI's client raises this base class itself before a request is sent: there is no key.
_NOT_SENT = "OpenAIError"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = (
    r"(?:\d+(?:\.\d+)?\s*(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|h)\s*)+"
)
_TOLD = re.compile(
    rf"(?:try again|retry|retry[ -]after|wait|retry_?delay)\D{{0,20}}?(?P<wait>{_DURATION})\b"
    r"|retry[ -]after['\"]?\s*[:=]\s*['\"]?(?P<seconds>\d+(?:\.\d+)?)"
    r"|retry_?delay\W{1,6}seconds\W{1,4}(?P<delay>\d+)",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|s|m|h)", re.IGNORECASE)
# The key, the account.
_REFUSED = {401, 402}
# The permission, the model or the address; or a firewall's word about one text.
_PERHAPS_REFUSED = {403, 404}
# Too many requests; overloaded, as Anthropic says.
_TOO_MANY = {429, 529}
_UNAVAILABLE = 503
_RATE_NAMES = ("ratelimit", "toomanyrequests", "resourceexhausted")
_RATE = re.compile(
    r"\btoo many requests\b|\brate[ _-]?limit(?:ed|s)?[ _-](?:was |has been |is )?"
    r"(?:reached|exceeded|error|hit)|(?:status|code|http|error)\W{0,3}(?:code\W{0,3})?429\b"
    r"|\(throttlingexception\)",
    re.IGNORECASE,
)
# Faults of a program, whose messages may quote a text.
_QUOTING = (LookupError, TypeError, ValueError)
# A used-up account or a wrong key, as codes and in words, where the status is not that of one.
_REFUSAL_CODES = (
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "api_key_invalid",
)
_REFUSALS = ("credit balance is too low", "api key not valid")
_MODERATED = ("flagged", "moderation")
# With status 429, of a request that is beyond the limit all by itself.
_TOO_LARGE = "request too large"
_BODY_TOO_LARGE = 413
_OF_ONE_TEXT = (
    *_MODERATED,
    _TOO_LARGE,
    "content filter",
    "content_filter",
    "content management policy",
    "context length",
    "context_length",
    "context window",
    "too long",
)
# A wait of fewer seconds is no figure.
AT_ONCE = 0.05


def is_permanent(error: BaseException) -> bool:
    """Tell whether the same request would fail again: a wrong key, model or prompt."""
    if refuses_all(error) or _is_too_large(error):
        return True
    status = status_of(error)
    return status in _CLIENT_ERRORS and status not in _TRANSIENT and not _throttles(error)


def refuses_all(error: BaseException) -> bool:
    """Tell whether other requests would fail as well: a wrong key, a used-up quota."""
    status = status_of(error)
    words = f"{inspect.getattr_static(error, 'code', '')} {error}".lower()
    return (
        status in _REFUSED
        or any(code in words for code in _REFUSAL_CODES)
        or (not isinstance(error, _QUOTING) and any(one in words for one in _REFUSALS))
        or (status is None and type(error).__name__ == _NOT_SENT)
    )


def may_refuse_all(error: BaseException) -> bool:
    """Tell whether other requests may fail as well, as a model may be wrong or one text barred."""
    words = str(error).lower()
    # Some say so of a text that moderation flagged.
    flagged = any(word in words for word in _MODERATED)
    return status_of(error) in _PERHAPS_REFUSED and not flagged


def concerns_one_text(error: BaseException) -> bool:
    """Tell whether a permanent error says itself that it is about the text: too long, barred."""
    words = str(error).lower()
    said = status_of(error) == _BODY_TOO_LARGE or any(one in words for one in _OF_ONE_TEXT)
    return said and is_permanent(error) and not refuses_all(error)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries, or None."""
    response = getattr(error, "response", None)
    places = (
        (error, "status_code"),
        (response, "status_code"),
        (error, "status"),  # aiohttp, which warns where one reads its "code"
        (error, "code"),
    )
    for holder, name in places:
        if isinstance(status := getattr(holder, name, None), int):
            return int(status)
    status = _botocore(error).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _botocore(error: BaseException) -> Mapping[str, Any]:
    """Return what botocore's errors tell of the response: a mapping in a mapping."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata") if isinstance(response, Mapping) else None
    return metadata if isinstance(metadata, Mapping) else {}


def told_wait(error: BaseException) -> float | None:
    """Return the seconds that a rate-limit error says to wait, or None.

    Looked for in ``retry_after``, in the response's ``Retry-After`` headers and in the message
    ("Please try again in 1m2.5s"). "At once" is told by what limits the rate alone: of any other
    error it says nothing.
    """
    wait = None if _is_too_large(error) else _figure(error)
    return None if wait is not None and wait < AT_ONCE and not _may_limit_rate(error) else wait


def _figure(error: BaseException) -> float | None:
    told = getattr(error, "retry_after", None)
    if isinstance(told, timedelta):
        return max(0.0, told.total_seconds())
    if told is not None and (wait := _header_seconds(told)) is not None:
        return wait
    places = (
        getattr(getattr(error, "response", None), "headers", None),
        getattr(error, "headers", None),  # aiohttp, urllib
        _botocore(error).get("HTTPHeaders"),
    )
    names = (("retry-after-ms", 0.001), ("retry-after", 1.0), ("Retry-After", 1.0))
    for headers, (name, unit) in itertools.product(places, names):
        value = headers.get(name) if hasattr(headers, "get") else None
        if value is not None and (wait := _header_seconds(value)) is not None:
            return float(wait * unit)
    match = _TOLD.search(str(error)) if _may_limit_rate(error) else None
    if match is None:
        return None
    if match["wait"] is None:
        return float(match["seconds"] or match["delay"])
    return sum(float(n) * _UNITS[_unit(unit)] for n, unit in _PART.findall(match["wait"]))


def asks_to_wait(error: BaseException) -> bool:
    """Tell whether an error asks for patience: it says how long, or that there were too many."""
    return told_wait(error) is not None or limits_rate(error)


def limits_rate(error: BaseException) -> bool:
    """Tell whether a service answers nothing because it was asked too often."""
    return _counts_requests(error) and not _is_too_large(error)


def _is_too_large(error: BaseException) -> bool:
    """Tell whether a request is beyond the rate limit all by itself, however long one waits."""
    return _TOO_LARGE in str(error).lower() and _counts_requests(error)


def _counts_requests(error: BaseException) -> bool:
    """Tell whether an error is about a rate limit, by its status or its words."""
    status = status_of(error)
    if status in _TOO_MANY or _throttles(error):
        return True
    if status in _CLIENT_ERRORS - _TRANSIENT:
        return False
    # Other errors may quote a text, or hold such a number: "4290 tokens exceed the window".
    told = not isinstance(error, _QUOTING) and _RATE.search(str(error))
    return bool(told) or any(word in type(error).__name__.lower() for word in _RATE_NAMES)


def _throttles(error: BaseException) -> bool:
    # With status 400, as Bedrock does.
    response = getattr(error, "response", None)
    fault = response.get("Error") if isinstance(response, Mapping) else None
    code = fault.get("Code") if isinstance(fault, Mapping) else None
    return any("throttl" in str(name).lower() for name in (type(error).__name__, code))


def _may_limit_rate(error: BaseException) -> bool:
    """Tell whether what looks like a told wait in an error's message is one."""
    words = str(error).lower()
    return (
        status_of(error) == _UNAVAILABLE
        or limits_rate(error)
        or any(word in words for word in ("rate limit", "rate_limit", "too many requests", "429"))
    )


def _header_seconds(value: object) -> float | None:
    """Read a number of seconds, or the date that the HTTP standard allows as well."""
    try:
        return max(0.0, float(str(value)))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(str(value))
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _unit(word: str) -> str:
    word = word.lower()
    return "ms" if word in ("ms", "milli") else word
