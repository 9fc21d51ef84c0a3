"""How long to wait before an LLM is asked again, and when to stop asking."""

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from llama_index.finetuning.embeddings.service_errors import (
    AT_ONCE,
    concerns_one_text,
    is_permanent,
    limits_rate,
    may_refuse_all,
    refuses_all,
    told_wait,
)

logger = logging.getLogger(__name__)

_LONGEST_BACKOFF = 60.0
_LONGEST_TOLD = 300.0
_WORTH_A_LINE = 60.0
# So many texts in a row may fail for good where the service has answered others.
_FAILED_IN_A_ROW = 50
# So many at least may fail, in ways that may pass, before the first answer comes.
_UNANSWERED = 8
_CHECK = "check the key, the account's quota, the model's name and the address."


@dataclass
class Told:
    """How often one caller was told to wait, and when first and last.

    Attributes:
        count: How often.
        since: When first.
        last: When last.
        answers: How many answers others had got by the first time.
    """

    count: int = 0
    since: float = 0.0
    last: float = 0.0
    answers: int = 0


class Pace:
    """Waits before calls: exponential back-off for one caller, a told wait for all of them.

    Args:
        first_wait: Seconds before the first retry; each further one waits twice as long, at most
            a minute, and up to a quarter more at random so that callers don't return together.
        seed: Seed of that random share.
        callers: How many share the service.
        answers_before: The service has answered in earlier runs.
        clock: Returns seconds.
        sleep: Sleeps for seconds.
    """

    def __init__(
        self,
        first_wait: float,
        *,
        seed: int,
        callers: int = 1,
        answers_before: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._first_wait = first_wait
        self._random = random.Random(int(seed))  # noqa: S311 - no secret
        self._clock = clock
        self._sleep = sleep
        self._callers = callers
        self._resume_at = clock()
        self._answered_at = -math.inf
        self._answers = 0
        self._has_answered = answers_before
        # Texts that failed for good since the last answer, by the ways in which they failed.
        self._in_a_row: Counter[str] = Counter()

    async def ready(self) -> None:
        """Return when no told wait is left, and a moment later."""
        while (left := self._resume_at - self._clock()) > 0:
            await self._sleep(left + self._share() * self._first_wait)

    def answered(self) -> None:
        """Note that the service has answered."""
        self._answered_at = self._clock()
        self._answers += 1
        self._has_answered = True
        self._in_a_row.clear()

    async def after(self, error: BaseException, attempt: int, told: Told) -> None:
        """Wait after a failed attempt.

        Args:
            error: How it failed.
            attempt: Its number, counted from 1; those that were told to wait are not counted.
            told: What this caller was told so far, which is written on.
        """
        wait = self._wait(error, told)
        if wait is None:
            told.count = 0
            wait = min(self._first_wait * 2 ** (attempt - 1), _LONGEST_BACKOFF)
            await self._sleep(wait * (1 + self._share()))
            return
        now = self._clock()
        # Where others were answered meanwhile, it is this caller's request that is too much.
        alone = told.count > 0 and self._answered_at > told.last
        told.count += 1
        told.last = now
        if told.count == 1:
            told.since, told.answers = now, self._answers
        if not alone:
            if wait >= _WORTH_A_LINE and self._resume_at <= now:
                logger.warning("The service says to wait: going on in %.0f seconds.", wait)
            self._resume_at = max(self._resume_at, now + wait)
        # Who was told more often comes a little sooner.
        await self._sleep(
            max(wait, self._first_wait) + self._first_wait * self._share() / told.count
        )

    def _wait(self, error: BaseException, told: Told) -> float | None:
        """Return the told wait; where a rate limit tells none, a longer one each time.

        So too where the told one and the first one are so short that asking would never pause.
        """
        wait = told_wait(error)
        if wait is None and not limits_rate(error):
            return None
        if wait is not None and max(wait, self._first_wait) >= AT_ONCE:
            return wait
        growing = (self._first_wait or wait or 1.0) * 2.0 ** min(told.count, 20)
        return min(growing, _LONGEST_BACKOFF, _LONGEST_TOLD)

    def _share(self) -> float:
        return self._random.uniform(0.0, 0.25)

    def gives_up(self, error: BaseException, told: Told) -> bool:
        """Tell whether a caller that is told to wait does not wait once more."""
        wait = self._wait(error, told)
        if wait is None:
            return False
        now = self._clock()
        # Where so many others were answered, it is not bad luck in the queue.
        passed_over = told.count >= 10 and self._answers - told.answers >= 20 * self._callers
        return (
            wait > _LONGEST_TOLD
            or (passed_over and now - told.since > _LONGEST_TOLD)
            or (told.count > 0 and now - max(told.since, self._answered_at) > _LONGEST_TOLD)
        )

    def _is_silent(self, told: Told) -> bool:
        """Tell whether nobody was answered for as long as a wait may be."""
        return (
            told.count > 0
            and self._answered_at < told.since
            and self._clock() - told.since > _LONGEST_TOLD
        )

    def dead_end(self, error: BaseException, told: Told) -> str | None:
        """Return what to do about an error after which no node can be asked for now, or None.

        What may be one text's alone (a firewall's word, say) ends nothing before it has come for
        many texts in a row; what says that it is, never does.
        """
        if refuses_all(error):
            return f"The service would refuse all others too: {_CHECK}"
        if concerns_one_text(error):
            return None
        wait = None if is_permanent(error) else self._wait(error, told)
        if wait is None:
            return self._too_many(error)
        longest = f"{_LONGEST_TOLD / 60:.0f} minutes"
        if wait > _LONGEST_TOLD:
            return (
                f"The service says to wait {wait / 3600:.1f} hours, and more than {longest} are "
                "not waited for."
            )
        if self._is_silent(told):
            return f"For {longest} the service has said nothing but to wait."
        return None

    def _too_many(self, error: BaseException) -> str | None:
        """Count a text that failed for good, and say so where too many did since an answer."""
        most = max(_FAILED_IN_A_ROW, 4 * self._callers)
        words = "The service would probably refuse all others too"
        if may_refuse_all(error):
            # Refusals come faster than the first answers, which may be under way for all callers.
            way, first = "barred", self._callers + 2
        elif is_permanent(error):
            way, first = "refused", most
        else:
            way, first = "failed", max(_UNANSWERED, 2 * self._callers)
            words = "No request has been answered"
            if self._has_answered:
                words = f"The last {most} requests have not been answered"
        self._in_a_row[way] += 1
        enough = self._in_a_row[way] >= (most if self._has_answered else first)
        return f"{words}: {_CHECK}" if enough else None
