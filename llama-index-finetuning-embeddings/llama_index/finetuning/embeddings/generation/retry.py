"""How long to wait before an LLM is asked again."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from llama_index.finetuning.embeddings.service_errors import refuses_all, told_wait

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0
_LONGEST_TOLD = 300.0
_WORTH_A_LINE = 60.0


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
