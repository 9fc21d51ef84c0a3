"""Calls of an LLM that run side by side, whether or not its async API is a real one."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from typing import Any, TypeVar

from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM

from llama_index.finetuning.embeddings.generation.journal import encodable

T = TypeVar("T")

_LONGEST_FAREWELL = 5.0  # seconds


class Calls:
    """Asks an LLM through its async API, or in threads where that API would block.

    Many LLMs only have an ``acomplete`` that calls ``complete``: it never gives way, so calls
    would run one after another and stop the event loop. Those of ``CustomLLM`` are known; any
    other one shows itself when its first call returns without having given way once.

    Args:
        llm: The LLM.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._in_threads = _has_no_async_api(llm)
        self._settled = self._in_threads

    async def complete(self, prompt: str) -> str:
        """Return the LLM's answer to a prompt."""
        if self._in_threads:
            return await self._in_a_thread(prompt)
        loop = asyncio.get_running_loop()
        gave_way = loop.create_future()
        loop.call_soon(gave_way.set_result, None)  # can only run while the LLM waits
        try:
            answer = await self._llm.acomplete(prompt)
        except NotImplementedError:
            if self._settled and not self._in_threads:
                raise
            self._in_threads = self._settled = True
            return await self._in_a_thread(prompt)
        if not self._settled:
            self._settled = gave_way.done()
            self._in_threads = not gave_way.done()
        return encodable(answer.text or "")

    async def _in_a_thread(self, prompt: str) -> str:
        try:
            answer = await asyncio.wrap_future(_in_daemon(lambda: self._llm.complete(prompt)))
        except NotImplementedError:
            if self._settled and self._in_threads:
                raise
            # An LLM with an async API only, whose first answer came at once.
            self._in_threads, self._settled = False, True
            return await self.complete(prompt)
        return encodable(answer.text or "")


def _in_daemon(function: Callable[[], T]) -> Future[T]:
    """Call a function in a thread that a process which ends does not wait for.

    It would wait for those of a ThreadPoolExecutor: after Ctrl-C as long as the LLM takes.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()  # tags and sessions of whoever traces the calls
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it under the thread

    def run() -> None:
        try:
            future.set_result(context.run(function))
        except StopIteration as error:  # which no future of asyncio can hold
            future.set_exception(RuntimeError(f"The LLM raised StopIteration: {error}"))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="question-generation-call", daemon=True).start()
    return future


def _has_no_async_api(llm: LLM) -> bool:
    own = inspect.getattr_static(type(llm), "acomplete", None)
    return own is None or own is inspect.getattr_static(CustomLLM, "acomplete")


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from code that is not async, also below a running event loop.

    All such runs share one event loop in a thread of its own: the connections that an LLM's
    client keeps open belong to the loop that opened them, so that a second run in a new loop
    would find them dead. A caller that is interrupted waits a moment for the run to let go of its
    files, so that it can call again at once.
    """
    loop = _background_loop()
    future: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        tasks.append(loop.create_task(coroutine))
        tasks[0].add_done_callback(finish)

    def finish(task: asyncio.Task[T]) -> None:
        if task.cancelled():
            future.set_exception(CancelledError())
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())

    def stop() -> None:
        tasks[0].cancel()

    loop.call_soon_threadsafe(start)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            loop.call_soon_threadsafe(stop)
            wait([future], timeout=_LONGEST_FAREWELL)
        raise


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_serve, args=[loop], name="question-generation", daemon=True).start()
    return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # An LLM that exits or is interrupted stops the loop as well. Its task holds the error,
        # and goes on to hand it to the caller.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()


if hasattr(os, "register_at_fork"):  # the thread does not live on in a forked process
    os.register_at_fork(after_in_child=_background_loop.cache_clear)
