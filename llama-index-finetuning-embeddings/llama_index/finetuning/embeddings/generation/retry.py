"""How long to wait before an LLM is asked again, and when to stop asking."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from llama_index.finetuning.embeddings.service_errors import (
    may_refuse_all,
    refuses_all,
    told_wait,
)

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0
_LONGEST_TOLD = 300.0
_WORTH_A_LINE = 60.0
# So many in a row mean the account or the model, not what one text says.
_REFUSALS = 10
_CHECK = "check the key, the account's quota, the model's name and the address."


class Pace:
    """Waits before calls: exponential back-off for one caller, a told wait for all of them.

    Args:
        first_wait: Seconds before the first retry; each further one waits twice as long, at most
            a minute, and up to a quarter more at random so that callers don't return together. A
            caller that was told to wait waits no less than this, and so much at random as well.
        seed: Seed of that random share.
        answers_before: The service has answered in earlier runs.
        clock: Returns seconds.
        sleep: Sleeps for seconds.
    """

    def __init__(
        self,
        first_wait: float,
        *,
        seed: int,
        answers_before: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_wait = first_wait
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._clock = clock
        self._sleep = sleep
        self._resume_at = clock()
        self._limited_since: float | None = None
        self._refusals_left = _REFUSALS if answers_before else 0

    async def ready(self) -> None:
        """Return when no told wait is left."""
        while (left := self._resume_at - self._clock()) > 0:
            await self._sleep(left)

    def answered(self) -> None:
        """Note that the service has answered."""
        self._limited_since = None
        self._refusals_left = _REFUSALS

    async def after(self, error: BaseException, attempt: int) -> None:
        """Wait after the failed attempt of this number, counted from 1."""
        told = told_wait(error)
        if told is not None:
            now = self._clock()
            if self._limited_since is None:
                self._limited_since = now
            if told >= _WORTH_A_LINE and self._resume_at <= now:
                logger.warning("The service says to wait: going on in %.0f seconds.", told)
            self._resume_at = max(self._resume_at, now + told)
            await self._sleep(max(told, self._first_wait) + self._first_wait * self._share())
            await self.ready()
            return
        wait = min(self._first_wait * 2 ** (attempt - 1), _LONGEST_BACKOFF)
        await self._sleep(wait * (1 + self._share()))

    def _share(self) -> float:
        return self._random.uniform(0.0, 0.25)

    def dead_end(self, error: BaseException) -> str | None:
        """Return what to do about an error after which no node can be asked for now, or None.

        A refusal that may be this text's alone (a firewall's, a guardrail's) ends nothing where
        the service has answered before, unless it is one of many in a row.
        """
        if refuses_all(error):
            return f"The service would refuse all others too: {_CHECK}"
        if may_refuse_all(error):
            self._refusals_left -= 1
            if self._refusals_left < 0:
                return f"The service would probably refuse all others too: {_CHECK}"
            return None
        return self.wait_is_over(error)

    def wait_is_over(self, error: BaseException) -> str | None:
        """Return why an error that says to wait is not waited for, or None."""
        told = told_wait(error)
        if told is None:
            return None
        longest = f"{_LONGEST_TOLD / 60:.0f} minutes"
        if told > _LONGEST_TOLD:
            return (
                f"The service says to wait {told / 3600:.1f} hours, and more than {longest} are "
                "not waited for."
            )
        since = self._limited_since
        if since is None or self._clock() - since <= _LONGEST_TOLD:
            return None
        return f"For {longest} the service has said nothing but to wait."
