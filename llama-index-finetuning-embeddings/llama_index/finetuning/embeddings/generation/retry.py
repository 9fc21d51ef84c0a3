"""How long to wait before an LLM is asked again."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from llama_index.finetuning.embeddings.service_errors import refuses_all, status_of

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0
_LONGEST_TOLD = 300.0
_WORTH_A_LINE = 60.0
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


class Pace:
    """Waits before calls: exponential back-off for one caller, a told wait for all of them.

    Args:
        first_wait: Seconds before the first retry; each further one waits twice as long, at most
            a minute, and up to a quarter more at random so that callers don't return together.
        seed: Seed of that random share.
        clock: Returns seconds.
        sleep: Sleeps for seconds.
    """

    def __init__(
        self,
        first_wait: float,
        *,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_wait = first_wait
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._clock = clock
        self._sleep = sleep
        self._resume_at = clock()

    async def ready(self) -> None:
        """Return when no told wait is left."""
        while (left := self._resume_at - self._clock()) > 0:
            await self._sleep(left)

    async def after(self, error: BaseException, attempt: int) -> None:
        """Wait after the failed attempt of this number, counted from 1."""
        told = told_wait(error)
        if told is not None:
            if told >= _WORTH_A_LINE and self._resume_at <= self._clock():
                logger.warning("The service says to wait: going on in %.0f seconds.", told)
            self._resume_at = max(self._resume_at, self._clock() + told)
            await self.ready()
            return
        wait = min(self._first_wait * 2 ** (attempt - 1), _LONGEST_BACKOFF)
        await self._sleep(wait * self._random.uniform(1.0, 1.25))


def dead_end(error: BaseException) -> str | None:
    """Return what to do about an error after which no node can be asked for now, or None."""
    if refuses_all(error):
        return (
            "The service would refuse all others too: check the key, the account's quota, the "
            "model's name and the address."
        )
    told = told_wait(error)
    if told is not None and told > _LONGEST_TOLD:
        return (
            f"The service says to wait {told / 3600:.1f} hours, and more than "
            f"{_LONGEST_TOLD / 60:.0f} minutes are not waited for."
        )
    return None


def told_wait(error: BaseException) -> float | None:
    """Return the seconds that a rate-limit error says to wait, or None.

    Looked for in ``retry_after``, in the response's ``Retry-After`` headers and in the message
    ("Please try again in 1m2.5s").
    """
    told = getattr(error, "retry_after", None)
    if isinstance(told, timedelta):
        return max(0.0, told.total_seconds())
    if told is not None and (wait := _header_seconds(told)) is not None:
        return wait
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0), ("Retry-After", 1.0)):
        value = headers.get(name) if hasattr(headers, "get") else None
        if value is not None and (wait := _header_seconds(value)) is not None:
            return wait * unit
    match = _TOLD.search(str(error)) if _limits_rate(error) else None
    if match is None:
        return None
    if match["wait"] is None:
        return float(match["seconds"] or match["delay"])
    return sum(float(n) * _UNITS[_unit(unit)] for n, unit in _PART.findall(match["wait"]))


def _limits_rate(error: BaseException) -> bool:
    name = type(error).__name__.lower()
    words = str(error).lower()
    return (
        status_of(error) in {429, 503, 529}
        or any(word in name for word in ("ratelimit", "toomanyrequests", "resourceexhausted"))
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
