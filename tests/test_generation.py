"""Generation: calls side by side, retries, the journal, and the dataset that comes out."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import HashEmbedding
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetFileError,
    EmbeddingQAFinetuneDataset,
    EncodingError,
    GenerationError,
    OutputError,
)
from llama_index.finetuning.embeddings.encoding import encode, patience
from llama_index.finetuning.embeddings.generation import (
    QA_PROMPTS,
    agenerate_qa_embedding_pairs,
    copies_text,
    generate_qa_embedding_pairs,
    mentions_context,
    retry,
)
from llama_index.finetuning.embeddings.generation.calls import Calls
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal, Key
from llama_index.finetuning.embeddings.generation.retry import Pace, Told, told_wait
from llama_index.finetuning.embeddings.service_errors import is_permanent, limits_rate

TEMPLATE = "{context_str}\n---\n{num_questions_per_chunk}"


class ScriptedLLM(CustomLLM):
    """Answers "Who is <text>?" and "Where is <text>?"; `failures` are raised first, per text."""

    model: str = "scripted"
    api_key: str = "sk-secret"
    _failures: dict[str, list[Exception]] = PrivateAttr(default_factory=dict)
    _answers: dict[str, str] = PrivateAttr(default_factory=dict)
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _threads: list[int] = PrivateAttr(default_factory=list)

    def __init__(self, failures=None, answers=None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._failures = {text: list(errors) for text, errors in (failures or {}).items()}
        self._answers = answers or {}

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def texts(self) -> list[str]:
        """The text of every call, in order."""
        return [prompt.split("\n---")[0] for prompt in self._prompts]

    @property
    def threads(self) -> list[int]:
        """The thread of every call, in order."""
        return self._threads

    def answer(self, prompt: str) -> CompletionResponse:
        self._prompts.append(prompt)
        self._threads.append(threading.get_ident())
        text = prompt.split("\n---", maxsplit=1)[0]
        if self._failures.get(text):
            raise self._failures[text].pop(0)
        default = f"1. Who is {text}?\n2. Where is {text}?"
        return CompletionResponse(text=self._answers.get(text, default))

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self.answer(prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


class AsyncLLM(ScriptedLLM):
    """Has a real async API, which counts how many calls are in flight, and no sync one."""

    _in_flight: int = PrivateAttr(default=0)
    _most_in_flight: int = PrivateAttr(default=0)

    @property
    def most_in_flight(self) -> int:
        return self._most_in_flight

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(0)
            return self.answer(prompt)
        finally:
            self._in_flight -= 1


class ThinAsyncLLM(ScriptedLLM):
    """Has an async API that is the sync one in disguise."""

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return self.complete(prompt, formatted=formatted, **kwargs)


class InstantAsyncLLM(AsyncLLM):
    """Has an async API only, and it answers at once."""

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return self.answer(prompt)


class NoAsyncLLM(ScriptedLLM):
    """Has an async method that says there is none."""

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        raise NotImplementedError


class RateLimitError(Exception):
    """What clients raise at status 429."""

    status_code = 429


def http_error(status: int, headers: dict[str, str] | None = None, text: str = "") -> Exception:
    """An error as HTTP clients raise it."""
    error = Exception(text)
    error.response = SimpleNamespace(status_code=status, headers=headers or {})
    return error


def boto_error(
    status: int, headers: dict[str, str] | None = None, code: str = "AccessDeniedException"
) -> Exception:
    """An error as botocore raises it."""
    error = Exception(f"An error occurred ({code}) when calling InvokeModel")
    error.response = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return error


def make_nodes(*texts: str) -> list[TextNode]:
    """Nodes with ids that come from their texts."""
    return [TextNode(id_=f"n-{text}", text=text) for text in texts]


@pytest.fixture
def options(tmp_path) -> dict[str, Any]:
    """Arguments that keep a run quick and inside the test's folder."""
    return {
        "qa_generate_prompt_tmpl": TEMPLATE,
        "output_path": str(tmp_path / "set.json"),
        "verbose": False,
        "retry_wait": 0.0,
    }


def journal_lines(options: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a run's journal."""
    path = Path(options["output_path"] + ".journal.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def reports(options: dict[str, Any]) -> list[Any]:
    """Let a run hand over its report; returns the list that it lands in."""
    collected: list[Any] = []
    options["on_finish"] = collected.append
    return collected


@pytest.mark.parametrize(
    "llm_class", [ScriptedLLM, AsyncLLM, ThinAsyncLLM, InstantAsyncLLM, NoAsyncLLM]
)
def test_every_kind_of_llm_gives_the_same_dataset(llm_class, options):
    """Two questions of each node, relevant to it, whatever the LLM's APIs are like."""
    llm = llm_class()
    dataset = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert list(dataset.queries.values()) == [
        "Who is Ann?",
        "Where is Ann?",
        "Who is Bob?",
        "Where is Bob?",
    ]
    assert dataset.corpus == {"n-Ann": "Ann", "n-Bob": "Bob"}
    assert [dataset.relevant_docs[qid] for qid in dataset.queries] == [
        ["n-Ann"],
        ["n-Ann"],
        ["n-Bob"],
        ["n-Bob"],
    ]
    assert sorted(llm.texts) == ["Ann", "Bob"]
    assert EmbeddingQAFinetuneDataset.from_json(options["output_path"]) == dataset


def test_arguments_of_the_retired_function_keep_their_places(tmp_path):
    """Old positional calls work: template, number, retries, failure, saving, path, verbosity."""
    path = str(tmp_path / "old.json")
    dataset = generate_qa_embedding_pairs(
        make_nodes("Ann"), ScriptedLLM(), TEMPLATE, 1, 3, "continue", 500, path, False
    )
    assert list(dataset.queries.values()) == ["Who is Ann?"]
    assert Path(path).is_file()


def test_old_import_path():
    """The retired package's module has the same objects."""
    from llama_index.finetuning.embeddings import common

    assert common.generate_qa_embedding_pairs is generate_qa_embedding_pairs
    assert common.EmbeddingQAFinetuneDataset is EmbeddingQAFinetuneDataset
    assert QA_PROMPTS["exam"] == common.DEFAULT_QA_GENERATE_PROMPT_TMPL


def test_workers_bound_the_calls_in_flight(options):
    """Five workers keep exactly five calls in flight."""
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes(*"abcdefghij"), llm, num_workers=5, **options)
    assert llm.most_in_flight == 5


def test_blocking_calls_run_side_by_side_in_threads(options):
    """Three blocking calls meet at a barrier, which no one call alone can pass."""
    barrier = threading.Barrier(3, timeout=30)

    class MeetingLLM(ScriptedLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            barrier.wait()
            return self.answer(prompt)

    llm = MeetingLLM()
    generate_qa_embedding_pairs(make_nodes("a", "b", "c"), llm, num_workers=3, **options)
    assert len(set(llm.threads)) == 3


class CountedLLM(ScriptedLLM):
    """Counts how many calls run at a time."""

    _now: int = PrivateAttr(default=0)
    _most: int = PrivateAttr(default=0)

    @property
    def most(self) -> int:
        return self._most

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._now += 1
        self._most = max(self._most, self._now)
        time.sleep(0.005)
        self._now -= 1
        return self.answer(prompt)


class ThinCountedLLM(CountedLLM):
    """Has an async API that is the sync one in disguise."""

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return self.complete(prompt)


@pytest.mark.parametrize("llm_class", [CountedLLM, ThinCountedLLM])
def test_a_local_model_can_be_asked_one_at_a_time(options, llm_class):
    """As the retired function did, for models that do not bear several threads."""
    llm = llm_class()
    generate_qa_embedding_pairs(make_nodes(*"abcdefgh"), llm, num_workers=1, **options)
    assert llm.most == 1
    assert llm.texts == list("abcdefgh")
    generate_qa_embedding_pairs(make_nodes(*"ijklmnop"), llm, num_workers=4, **options)
    assert 1 < llm.most <= 4


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_llm_that_raises_stop_iteration_does_not_hang(options, num_workers):
    """No future of asyncio can hold that error."""

    class Exhausted(ScriptedLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            return next(iter(()))

    settings = {**options, "retry_limit": 1, "on_failure": "fail", "num_workers": num_workers}
    with pytest.raises(GenerationError, match="StopIteration"):
        generate_qa_embedding_pairs(make_nodes("a", "b"), Exhausted(), **settings)


def test_an_async_llm_is_asked_eight_at_a_time(options):
    """Unless told otherwise."""
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes(*"abcdefghijklmnop"), llm, **options)
    assert llm.most_in_flight == 8


def test_a_thin_async_api_blocks_the_loop_at_most_once():
    """After the first call, which showed that the API never waits, calls run in threads."""
    llm = ThinAsyncLLM()

    async def call_three_times() -> int:
        calls = Calls(llm)
        for text in ("a", "b", "c"):
            await calls.complete(text)
        return threading.get_ident()

    own_thread = asyncio.run(call_three_times())
    assert [thread == own_thread for thread in llm.threads] == [True, False, False]


def test_an_api_that_worked_is_not_left_for_one_error(options):
    """After a good async call, NotImplementedError is an error like others: no sync calls."""
    llm = AsyncLLM(failures={"Bob": [NotImplementedError("no tools")] * 2})
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, num_workers=1, **options)
    assert llm.texts == ["Ann", "Bob", "Bob", "Bob"]


def test_an_llm_without_any_api_fails(options):
    """Neither way of asking exists: the run ends with an error instead of switching for ever."""

    class NoApiLLM(NoAsyncLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            raise NotImplementedError("nothing here")

    with pytest.raises(GenerationError, match="nothing here"):
        generate_qa_embedding_pairs(make_nodes("Ann"), NoApiLLM(), **options)


def test_a_model_that_its_integration_does_not_know(options):
    """Where the metadata can't be had, the model's name is taken from the LLM itself."""

    class UnknownModelLLM(AsyncLLM):
        @property
        def metadata(self) -> LLMMetadata:
            raise ValueError("unknown model")

    generate_qa_embedding_pairs(make_nodes("Ann"), UnknownModelLLM(model="new-1"), **options)
    assert journal_lines(options)[0]["model"] == "custom_llm/new-1"


def test_sync_call_inside_a_running_loop(options):
    """The sync function works where a loop runs already, as in a notebook."""

    async def cell() -> EmbeddingQAFinetuneDataset:
        return generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)

    assert len(asyncio.run(cell()).queries) == 2


def test_two_sync_calls_share_one_event_loop(options, tmp_path):
    """An LLM's client, bound to the loop of its first call, meets the same loop again."""
    loops = []

    class LoopLLM(AsyncLLM):
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            loops.append(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return self.answer(prompt)

    generate_qa_embedding_pairs(make_nodes("a"), LoopLLM(), **options)
    generate_qa_embedding_pairs(make_nodes("b"), LoopLLM(), **options)
    assert loops[0] is loops[1]


NESTED = textwrap.dedent(
    """
    import sys
    from llama_index.core.llms.mock import MockLLM
    from llama_index.core.schema import TextNode
    from llama_index.finetuning.embeddings.generation import generate_qa_embedding_pairs

    def run(name, **options):
        nodes = [TextNode(id_="n", text="Who is Ann?")]
        generate_qa_embedding_pairs(
            nodes, MockLLM(), "{context_str}", 1, output_path=f"{sys.argv[1]}/{name}",
            verbose=False, filters=(), **options,
        )
        print(name)

    run("outer", on_finish=lambda report: run("inner"))
    """
)


INTERRUPTED = textwrap.dedent(
    """
    import asyncio, os, signal, sys
    from llama_index.core.llms.mock import MockLLM
    from llama_index.core.schema import TextNode
    from llama_index.finetuning.embeddings.generation import generate_qa_embedding_pairs

    # A process that was started in the background ignores it otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    class WaitingLLM(MockLLM):
        async def acomplete(self, prompt, formatted=False, **kwargs):
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    def run(llm):
        nodes = [TextNode(id_="n", text="Who is Ann?")]
        return generate_qa_embedding_pairs(
            nodes, llm, "{context_str}", 1, output_path=sys.argv[1], verbose=False, filters=()
        )

    try:
        run(WaitingLLM())
    except KeyboardInterrupt:
        print(*run(MockLLM()).queries.values())
    """
)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_an_interrupted_caller_can_call_again_at_once(tmp_path):
    """After Ctrl-C the first run has let go of the output when its caller goes on."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "set.json")],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "Who is Ann?\n"


IN_THREADS = textwrap.dedent(
    """
    import os, signal, sys, threading, time
    from llama_index.core.llms.mock import MockLLM
    from llama_index.core.schema import TextNode
    from llama_index.finetuning.embeddings.generation import generate_qa_embedding_pairs

    signal.signal(signal.SIGINT, signal.default_int_handler)

    class SlowLLM(MockLLM):
        def complete(self, prompt, formatted=False, **kwargs):
            if prompt == "slow":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(600)
            return super().complete(prompt)

    nodes = [TextNode(text="quick"), TextNode(text="slow")]
    generate_qa_embedding_pairs(
        nodes, SlowLLM(), "{context_str}", 1, output_path=sys.argv[1], verbose=False, filters=(),
        num_workers=1,
    )
    """
)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_does_not_wait_for_calls_in_threads(tmp_path):
    """The process ends while an LLM thinks for minutes, and the answer before it is kept."""
    path = tmp_path / "set.json"
    ended = subprocess.run(
        [sys.executable, "-c", IN_THREADS, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt"), ended.stderr
    assert len(path.with_name("set.json.journal.jsonl").read_text().splitlines()) == 1


def test_a_callback_can_generate_itself(tmp_path):
    """The callback of the function that blocks runs in the caller's thread: no deadlock."""
    done = subprocess.run(  # a process of its own, since one that hangs can't be ended in here
        [sys.executable, "-c", NESTED, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["inner", "outer"]


def test_the_callback_runs_in_the_callers_thread(options):
    """Of the function that blocks, once and with the report."""
    called = []
    options["on_finish"] = lambda report: called.append((threading.get_ident(), report.questions))
    generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    assert called == [(threading.get_ident(), 2)]


class WaitingLLM(AsyncLLM):
    """Answers about Ann, then lets others go on and waits for them at Bob."""

    _waits: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)
    _go_on: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    @property
    def waits(self) -> asyncio.Event:
        return self._waits

    @property
    def go_on(self) -> asyncio.Event:
        return self._go_on

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        await asyncio.sleep(0)
        if prompt.startswith("Bob"):
            self._waits.set()
            await self._go_on.wait()
        return self.answer(prompt)


def test_a_second_run_into_one_place_is_refused(options):
    """While the first one is under way; the journal stays whole, and nothing is paid for twice."""
    first, second = WaitingLLM(), AsyncLLM()
    nodes = make_nodes("Ann", "Bob")
    journal = Path(options["output_path"] + ".journal.jsonl")

    async def both() -> EmbeddingQAFinetuneDataset:
        run = asyncio.ensure_future(
            agenerate_qa_embedding_pairs(nodes, first, num_workers=1, **options)
        )
        await first.waits.wait()
        # As if the first one were in the middle of writing: what a second Journal cuts off.
        with journal.open("ab") as stream:
            stream.write(b"{")
        before = journal.read_bytes()
        with pytest.raises(OutputError, match="'output_path' must not be in use"):
            await agenerate_qa_embedding_pairs(nodes, second, **options)
        assert await asyncio.to_thread(refused_in_a_thread)
        assert journal.read_bytes() == before
        os.truncate(journal, len(before) - 1)
        first.go_on.set()
        return await run

    def refused_in_a_thread() -> bool:
        with pytest.raises(OutputError, match="another run is writing"):
            generate_qa_embedding_pairs(nodes, second, **options)
        return True

    dataset = asyncio.run(both())
    assert len(dataset.queries) == 4
    assert [line["node_id"] for line in journal_lines(options)] == ["n-Ann", "n-Bob"]
    assert second.texts == []
    assert generate_qa_embedding_pairs(nodes, second, **options) == dataset


def test_async_function_runs_in_the_callers_loop(options):
    """The awaitable function asks the LLM from the loop that it is awaited in."""
    llm = AsyncLLM()

    async def main() -> tuple[EmbeddingQAFinetuneDataset, int]:
        dataset = await agenerate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
        return dataset, threading.get_ident()

    dataset, thread = asyncio.run(main())
    assert len(dataset.queries) == 2
    assert llm.threads == [thread]


def test_retries_until_it_works(options):
    """Two failures, then an answer: three calls and no failed node."""
    collected = reports(options)
    llm = AsyncLLM(failures={"Ann": [RuntimeError("down"), RuntimeError("down")]})
    generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    assert llm.texts == ["Ann"] * 3
    assert collected[0].failed == 0


def test_a_failed_node_is_counted_kept_in_the_corpus_and_asked_again(options):
    """Bob fails three times and has no question; the next run asks for Bob alone."""
    collected = reports(options)
    llm = AsyncLLM(failures={"Bob": [RuntimeError("down")] * 3})
    first = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert Counter(llm.texts) == {"Ann": 1, "Bob": 3}
    assert list(first.corpus) == ["n-Ann", "n-Bob"]
    assert len(first.queries) == 2
    assert collected[0].failed == 1
    assert collected[0].errors == {"n-Bob": "RuntimeError: down"}

    llm = AsyncLLM()
    second = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert llm.texts == ["Bob"]
    assert len(second.queries) == 4
    assert (collected[1].made, collected[1].reused, collected[1].failed) == (2, 1, 0)


def test_retry_limit_counts_attempts(options):
    """With a limit of one a failing node is asked once."""
    llm = AsyncLLM(failures={"Bob": [RuntimeError("down")] * 3})
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, retry_limit=1, **options)
    assert Counter(llm.texts) == {"Ann": 1, "Bob": 1}


def test_an_empty_answer_is_a_failed_attempt(options):
    """An answer of blanks is asked for again; three of them fail the node."""
    llm = AsyncLLM(answers={"Bob": " \n"})
    collected = reports(options)
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert Counter(llm.texts) == {"Ann": 1, "Bob": 3}
    assert "empty" in collected[0].errors["n-Bob"]


def test_a_refused_request_is_not_repeated(options):
    """Status 400 comes back however often one asks: one call, and the others are asked about."""
    denied = RuntimeError("too long")
    denied.status_code = 400
    llm = AsyncLLM(failures={"Bob": [denied] * 3})
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert Counter(llm.texts) == {"Ann": 1, "Bob": 1}


class QuotaError(RateLimitError):
    """What OpenAI's client raises when there is no credit left."""

    code = "insufficient_quota"


def refused(status: int, message: str = "no") -> Exception:
    """An error with an HTTP status."""
    error = RuntimeError(message)
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (refused(401), "check the key"),
        (refused(402), "check the key"),
        (QuotaError("You exceeded your current quota"), "quota"),
        (RuntimeError("Error code: 429 - {'code': 'insufficient_quota'}"), "quota"),
        (RateLimitError("Requests per day: please try again in 23h59m12s."), "wait 24.0 hours"),
        (http_error(503, {"retry-after": "inf"}), "wait inf hours"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value),
)
@pytest.mark.parametrize("llm_class", [AsyncLLM, ScriptedLLM])
def test_a_service_that_refuses_everything_stops_the_run(options, error, remedy, llm_class):
    """Nobody else is asked, nothing is waited for, and the answers that came are kept."""
    texts = [f"text {i}" for i in range(50)]
    llm = llm_class(failures={text: [error] * 9 for text in texts[4:]})
    with pytest.raises(GenerationError, match=rf"'n-text 4' failed .*{remedy}.* 4 answers"):
        generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=2, **options)
    assert len(llm.texts) <= 6
    llm = llm_class()
    generate_qa_embedding_pairs(make_nodes(*texts), llm, **options)
    assert sorted(llm.texts) == sorted(texts[4:])


def test_one_text_that_a_service_will_not_have(options):
    """Status 403 for a text that moderation flagged is this node's failure alone."""
    error = refused(403, "Your input was flagged")
    llm = AsyncLLM(failures={"Ann": [error] * 3})
    dataset = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert questions_by_text(dataset).keys() == {"Bob"}
    assert llm.texts.count("Ann") == 1


@pytest.mark.parametrize("status", [403, 404])
def test_a_firewall_that_bars_one_text(options, status):
    """Where others are answered, that is this node's failure, in this run and in the next."""
    texts = [f"text {i}" for i in range(6)]
    error = refused(status, "blocked by the web application firewall")
    for asked in (texts, ["text 3"]):
        llm = AsyncLLM(failures={"text 3": [error] * 3})
        dataset = generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
        assert llm.texts == asked
        assert questions_by_text(dataset).keys() == {*texts} - {"text 3"}


@pytest.mark.parametrize("status", [403, 404])
def test_a_permission_that_was_never_there(options, status):
    """Where nothing is ever answered, three refusals are enough."""
    texts = [f"text {i}" for i in range(50)]
    llm = AsyncLLM(failures={text: [refused(status)] for text in texts})
    with pytest.raises(GenerationError, match="'n-text 2' failed .*probably .*model's name"):
        generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
    assert len(llm.texts) == 3


def test_many_barred_texts(options):
    """However many there are, also where only they are left, the others' dataset is written."""
    texts = [f"text {i}" for i in range(40)]
    barred = {text: [refused(403)] * 2 for text in texts[1:16]}
    for asked in (40, 15):
        llm = AsyncLLM(failures=barred)
        dataset = generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
        assert len(llm.texts) == asked
        assert questions_by_text(dataset).keys() == {*texts} - barred.keys()


def test_a_text_that_is_always_told_to_wait(options, monkeypatch):
    """It fails alone when its time is up, and does not hold up the others for ever."""
    monkeypatch.setattr(retry, "_LONGEST_TOLD", 0.05)
    texts = [f"text {i}" for i in range(20)]
    busy = [RateLimitError("Too large for now, please try again in 3ms.")] * 1000
    for _ in range(2):
        llm = AsyncLLM(failures={"text 3": busy})
        dataset = generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=2, **options)
        assert questions_by_text(dataset).keys() == {*texts} - {"text 3"}
        assert llm.texts.count("text 3") < 1000


def test_a_filter_that_fails_loses_no_answer(options):
    """Those under way are waited for and kept, so that none is paid for again."""

    def broken(question: str, text: str) -> bool:
        raise ZeroDivisionError

    texts = [f"text {i}" for i in range(20)]
    llm = AsyncLLM()
    with pytest.raises(ZeroDivisionError):
        generate_qa_embedding_pairs(
            make_nodes(*texts), llm, num_workers=4, filters=[broken], **options
        )
    asked = list(llm.texts)
    assert 0 < len(asked) <= 8
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes(*texts), llm, **options)
    assert sorted([*asked, *llm.texts]) == sorted(texts)


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(("per_minute", "callers"), [(3, 8), (1, 8), (1, 16)])
def test_a_slow_service_answers_everyone(per_minute, callers, tells):
    """Nobody gives up while others are answered now and then, however long the queue.

    The service says how long to wait, or only that there were too many requests.
    """
    now, granted = 0.0, []
    sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        sleepers.append((now + seconds, len(sleepers), future))
        await future

    pace = Pace(1.0, seed=0, callers=callers, clock=lambda: now, sleep=sleep)
    left = iter(range(6 * callers))
    answered, lost = [], []

    async def work() -> None:
        for node in left:
            told = Told()
            while True:
                await pace.ready()
                recent = [moment for moment in granted if moment > now - 60]
                if len(recent) < per_minute:
                    granted.append(now)
                    pace.answered()
                    answered.append(node)
                    break
                error = RateLimitError(f"try again in {60 / per_minute}s" if tells else "")
                if pace.gives_up(error, told):
                    lost.append(node)
                    break
                await pace.after(error, 1, told)

    async def main() -> None:
        nonlocal now
        workers = [asyncio.ensure_future(work()) for _ in range(callers)]
        while not all(worker.done() for worker in workers):
            await asyncio.sleep(0)
            if sleepers and all(w.done() or w._fut_waiter is not None for w in workers):
                sleepers.sort(key=lambda one: one[:2])
                now, _, future = sleepers.pop(0)
                future.set_result(None)

    asyncio.run(main())
    assert lost == []
    assert sorted(answered) == list(range(6 * callers))


def test_a_permission_that_goes_away(options):
    """Many refusals in a row end the run, with what came in the journal."""
    texts = [f"text {i}" for i in range(200)]
    llm = AsyncLLM(failures={text: [refused(403)] for text in texts[4:]})
    with pytest.raises(GenerationError, match="probably refuse all others.* 4 answers"):
        generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
    assert len(llm.texts) == 54


def test_a_service_that_is_not_there(options):
    """Where nothing was ever answered, some nodes that fail for good are enough to see that."""
    texts = [f"text {i}" for i in range(40)]
    down = {text: [ConnectionError("nobody listens")] * 3 for text in texts}
    llm = AsyncLLM(failures=down)
    with pytest.raises(GenerationError, match="nobody listens.*No request has been answered"):
        generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
    assert len(llm.texts) == 8 * 3
    generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    llm = AsyncLLM(failures=down)
    generate_qa_embedding_pairs(make_nodes("Ann", *texts), llm, num_workers=1, **options)
    assert len(llm.texts) == 40 * 3


def test_texts_that_a_service_refuses_first(options):
    """Ten that are too long say nothing about the service, nor does a number in a message."""
    texts = [f"text {i}" for i in range(30)]
    for error in (refused(400, "context too long"), ValueError("4290 tokens exceed the window")):
        llm = AsyncLLM(failures={text: [error] * 3 for text in texts[:7]})
        dataset = generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
        assert questions_by_text(dataset).keys() == {*texts} - {*texts[:7]}
        options["output_path"] = f"{options['output_path']}.other.json"
    llm = AsyncLLM(failures={text: [refused(400, "too long")] * 3 for text in texts[:12]})
    dataset = generate_qa_embedding_pairs(make_nodes(*texts), llm, num_workers=1, **options)
    assert questions_by_text(dataset).keys() == {*texts} - {*texts[:12]}


def test_a_quota_that_ends_with_the_last_node(options):
    """It is told, as it is anywhere else."""
    llm = AsyncLLM(failures={"Bob": [QuotaError("You exceeded your current quota")] * 9})
    with pytest.raises(GenerationError, match="the account's quota"):
        generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, num_workers=1, **options)


def test_llms_of_ones_own_are_told_apart(options):
    """They share the class name and the model's name that LlamaIndex gives them."""

    class Nameless(AsyncLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata()

    class Other(Nameless):
        pass

    for llm, calls in ((Nameless(), 1), (Other(), 1), (Nameless(), 0)):
        generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
        assert len(llm.texts) == calls


def test_older_files_with_the_same_query_ids(options):
    """A "q0" of one file and that of the next one are two queries, each with its own document."""
    path = Path(options["output_path"])
    for text, question in (("Ann", "Where do apples grow?"), ("Bob", "What floats on rivers?")):
        EmbeddingQAFinetuneDataset(
            queries={"q0": question}, corpus={text: text}, relevant_docs={"q0": [text]}
        ).save_json(path)
        generate_qa_embedding_pairs(make_nodes(text), AsyncLLM(), **options)
    llm = AsyncLLM()
    reports: list[Any] = []
    dataset = generate_qa_embedding_pairs(
        make_nodes("Ann", "Bob"), llm, on_finish=reports.append, **options
    )
    assert llm.texts == []
    assert questions_by_text(dataset) == {
        "Ann": ["Where do apples grow?"],
        "Bob": ["What floats on rivers?"],
    }
    assert reports[0].questions == len(dataset.queries) == 2


class BusyLLM(AsyncLLM):
    """Answers one request in three, and tells the others to ask again at once."""

    _asked: int = PrivateAttr(default=0)

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        self._asked += 1
        await asyncio.sleep(0)
        if self._asked % 3:
            raise RateLimitError("Rate limit reached, please try again in 1ms.")
        return await super().acomplete(prompt)


def test_a_rate_limit_loses_no_node(options):
    """However often a node is told to wait, it is asked about again until it is answered."""
    texts = [f"text {i}" for i in range(40)]
    dataset = generate_qa_embedding_pairs(make_nodes(*texts), BusyLLM(), **options)
    assert questions_by_text(dataset).keys() == set(texts)


def test_a_run_that_ends_waits_for_nobody(options):
    """A worker in a back-off of ten minutes does not hold up the end of the run."""
    options["retry_wait"] = 600.0
    slow = [RuntimeError("down")] * 3

    class LateLLM(AsyncLLM):
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            for _ in range(5 if prompt.startswith("Bob") else 0):
                await asyncio.sleep(0)
            return await super().acomplete(prompt)

    llm = LateLLM(failures={"Ann": slow, "Bob": [refused(401)]})
    with pytest.raises(GenerationError, match="'n-Bob' failed"):
        generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert llm.texts == ["Ann", "Bob"]


@pytest.mark.parametrize("on_failure", ["continue", "fail"])
def test_no_traceback_holds_the_key_or_the_text(options, on_failure):
    """The error's whole chain names the cause and quotes neither."""
    text = "a confidential text"
    error = RuntimeError(f"wrong key sk-secret for {text}")
    llm = AsyncLLM(failures={text: [error] * 3})
    with pytest.raises(GenerationError) as raised:
        generate_qa_embedding_pairs(make_nodes(text), llm, on_failure=on_failure, **options)
    shown = "".join(traceback.format_exception(raised.value))
    assert "RuntimeError: wrong key <hidden> for <text>" in shown
    assert "sk-secret" not in shown
    assert text not in shown.replace(f"n-{text}", "")


def test_on_failure_fail_stops_and_keeps_what_came(options):
    """The run ends at the first failed node; the answers before it are not paid for again."""
    nodes = make_nodes("Ann", "Bob", "Cid")
    llm = AsyncLLM(failures={"Bob": [RuntimeError("down")] * 3})
    with pytest.raises(GenerationError, match=r"'n-Bob' failed .*down.* 1 answers"):
        generate_qa_embedding_pairs(nodes, llm, on_failure="fail", num_workers=1, **options)
    assert llm.texts == ["Ann", "Bob", "Bob", "Bob"]
    llm = AsyncLLM()
    generate_qa_embedding_pairs(nodes, llm, on_failure="fail", num_workers=1, **options)
    assert llm.texts == ["Bob", "Cid"]


def test_no_questions_at_all_is_an_error(options):
    """When every node failed there is no dataset, and the message has the reason."""
    llm = AsyncLLM(failures={text: [RuntimeError("down")] * 3 for text in ("Ann", "Bob")})
    with pytest.raises(GenerationError, match=r"None of 2 nodes got a question .*down") as raised:
        generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    assert "RuntimeError: down" in str(raised.value)
    assert not Path(options["output_path"]).exists()


def test_nodes_without_text_are_skipped_with_a_warning(options, caplog):
    """Two empty nodes: one warning that counts and names them, and none of them in the corpus."""
    collected = reports(options)
    nodes = [*make_nodes("Ann"), TextNode(id_="e1", text=""), TextNode(id_="e2", text=" \n")]
    dataset = generate_qa_embedding_pairs(nodes, AsyncLLM(), **options)
    assert list(dataset.corpus) == ["n-Ann"]
    assert (collected[0].nodes, collected[0].made, collected[0].skipped) == (3, 1, 2)
    assert "2 nodes have no text and are skipped: 'e1', 'e2'" in caplog.text


def test_a_second_run_pays_for_nothing(options):
    """The same call again asks nothing and gives the same dataset with the same ids."""
    first = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), AsyncLLM(), **options)
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options) == first
    assert llm.texts == []


def test_ids_come_from_the_content(options, tmp_path):
    """Another place, another order of nodes: every question has the same id."""
    first = generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), AsyncLLM(), **options)
    options["output_path"] = str(tmp_path / "other.json")
    second = generate_qa_embedding_pairs(make_nodes("Bob", "Ann"), AsyncLLM(), **options)
    assert second.queries == first.queries
    assert list(second.queries) != list(first.queries)


def test_other_nodes_never_mix_in(options):
    """A validation set at the training set's path holds validation nodes only, and vice versa."""
    train, val = make_nodes("Ann", "Bob"), make_nodes("Cid")
    first = generate_qa_embedding_pairs(train, AsyncLLM(), **options)
    other = generate_qa_embedding_pairs(val, AsyncLLM(), **options)
    assert list(other.corpus) == ["n-Cid"]
    assert list(other.queries.values()) == ["Who is Cid?", "Where is Cid?"]
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(train, llm, **options) == first
    assert llm.texts == []


def split(*texts: str) -> list[TextNode]:
    """Nodes with random ids, as a splitter gives them."""
    return [TextNode(text=text) for text in texts]


def questions_by_text(dataset: EmbeddingQAFinetuneDataset) -> dict[str, list[str]]:
    """The questions about each text, whatever the ids are."""
    found: dict[str, list[str]] = {}
    for query_id, query in dataset.queries.items():
        for node_id in dataset.relevant_docs[query_id]:
            found.setdefault(dataset.corpus[node_id], []).append(query)
    return found


@pytest.mark.parametrize(
    "more",
    [{}, {"sample_size": 2}, {"qa_generate_prompt_tmpl": [TEMPLATE + " 1", TEMPLATE + " 2"]}],
)
def test_new_ids_cost_nothing(options, more, caplog):
    """Documents that were split again have new ids: the answers are found by what was asked."""
    options |= more
    texts = ("Ann", "Bob", "Cid", "Dan")
    first = generate_qa_embedding_pairs(split(*texts), AsyncLLM(), **options)
    for _ in range(2):
        nodes, llm = split(*texts), AsyncLLM()
        again = generate_qa_embedding_pairs(nodes, llm, **options)
        assert llm.texts == []
        assert list(again.corpus) == [node.node_id for node in nodes]
        assert questions_by_text(again) == questions_by_text(first)
    assert len(journal_lines(options)) == len(questions_by_text(first))
    assert "bak" not in caplog.text
    assert list(Path(options["output_path"]).parent.glob("*.bak*")) == []


def test_equal_texts_have_questions_of_their_own(options):
    """Two nodes with one text need two answers, under these ids or under new ones."""
    numbers = iter(range(100))

    class CountingLLM(AsyncLLM):
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any):
            await super().acomplete(prompt)
            return CompletionResponse(text=f"Who is number {next(numbers)}?")

    llm = CountingLLM()
    generate_qa_embedding_pairs(split("Ann"), llm, **options)
    both = generate_qa_embedding_pairs(split("Ann", "Ann"), llm, **options)
    assert llm.texts == ["Ann", "Ann"]
    assert sorted(both.queries.values()) == ["Who is number 0?", "Who is number 1?"]
    assert len(set(map(tuple, both.relevant_docs.values()))) == 2
    again = generate_qa_embedding_pairs(split("Ann", "Ann"), llm, **options)
    assert llm.texts == ["Ann", "Ann"]
    assert sorted(again.queries.values()) == sorted(both.queries.values())


def test_the_answer_for_a_node_goes_to_that_node(options):
    """Another node with the same text, though it stands first, is asked about for itself."""
    (ann,) = make_nodes("Ann")
    generate_qa_embedding_pairs([ann], AsyncLLM(), **options)
    llm = AsyncLLM(answers={"Ann": "Who else?"})
    dataset = generate_qa_embedding_pairs([*split("Ann"), ann], llm, **options)
    assert list(dataset.queries.values()) == ["Who else?", "Who is Ann?", "Where is Ann?"]
    assert llm.texts == ["Ann"]


LABELLED = {
    "queries": {"q": "Who was Zoe?"},
    "corpus": {"z": "Zoe", "a": "Ann"},
    "relevant_docs": {"q": ["z"]},
    "mode": "text",
}


@pytest.mark.parametrize(
    "held",
    [
        LABELLED,
        {**LABELLED, "queries": {}, "relevant_docs": {}},
        {**LABELLED, "corpus": {"z": "Ann"}, "hard_negatives": {"q": ["a"]}},
        {**LABELLED, "corpus": {"a": "Ann"}, "relevant_docs": {}},
    ],
    ids=["others", "documents only", "hard negatives", "a query without a document"],
)
def test_what_would_be_lost_is_set_aside(options, held, caplog):
    """The file that stood at the output path is whole beside it, and a warning names it."""
    path = Path(options["output_path"])
    for number in range(2):
        path.write_text(
            json.dumps({**held, "corpus": {**held["corpus"], "n": str(number)}}), "utf-8"
        )
        old = path.read_bytes()
        dataset = generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
        assert EmbeddingQAFinetuneDataset.from_json(path) == dataset
        kept = path.with_name(("set.bak.json", "set.bak2.json")[number])
        assert kept.read_bytes() == old
        assert f"it is now {kept}" in caplog.text


def test_another_models_questions_are_set_aside(options):
    """The same nodes asked of another model: the file of the first is kept."""
    generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    path = Path(options["output_path"])
    old = path.read_bytes()
    llm = AsyncLLM(model="other", answers={"Ann": "Whose?"})
    generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    assert path.with_name("set.bak.json").read_bytes() == old


def test_a_normal_restart_sets_nothing_aside(options):
    """After a failure in the middle, with more nodes, without the journal: nothing is lost."""
    path = Path(options["output_path"])
    llm = AsyncLLM(failures={"Bob": [RuntimeError("down")] * 3})
    options["save_every"] = 1
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), AsyncLLM(), **options)
    path.with_name("set.json.journal.jsonl").unlink()
    generate_qa_embedding_pairs(make_nodes("Cid", "Ann", "Bob"), AsyncLLM(), **options)
    names = {one.name for one in path.parent.iterdir()}
    assert names == {"set.json", "set.json.journal.jsonl", ".set.json.lock"}


def test_a_run_that_brings_nothing_moves_nothing(options):
    """Where no dataset comes out, what stood there stays."""
    path = Path(options["output_path"])
    path.write_text(json.dumps(LABELLED), "utf-8")
    llm = AsyncLLM(answers={"Bob": "N/A"})
    with pytest.raises(GenerationError, match="None of 1 nodes"):
        generate_qa_embedding_pairs(make_nodes("Bob"), llm, **options)
    assert json.loads(path.read_text("utf-8")) == LABELLED
    assert not path.with_name("set.bak.json").exists()


def test_a_node_without_a_question_is_asked_again(options):
    """Once in each run; the answer that brought something is kept from then on."""
    nodes = make_nodes("Ann", "Bob")
    for answer in ("I'm sorry, I can't.", "<think>Who is", "Who is Bob?"):
        llm = AsyncLLM(answers={"Bob": answer})
        dataset = generate_qa_embedding_pairs(nodes, llm, **options)
        assert llm.texts.count("Bob") == 1
    assert "Who is Bob?" in dataset.queries.values()
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(nodes, llm, **options) == dataset
    assert llm.texts == []


def test_failed_nodes_shift_nothing(options):
    """With the first node failed, a longer list of nodes asks exactly what is missing."""
    llm = AsyncLLM(failures={"Ann": [RuntimeError("down")] * 3})
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob"), llm, **options)
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes("Ann", "Bob", "Cid"), llm, **options)
    assert sorted(llm.texts) == ["Ann", "Cid"]


@pytest.mark.parametrize(
    "change",
    [
        {"llm": "other"},
        {"num_questions_per_chunk": 1},
        {"qa_generate_prompt_tmpl": "{context_str}\n---\nnew"},
        {"language": "German"},
        {"text": "Ann!"},
    ],
    ids=str,
)
def test_another_model_prompt_or_text_is_asked_anew(options, change):
    """An answer counts only for the text, prompt and model that it was given to."""
    generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    llm = AsyncLLM(model=change.pop("llm", "scripted"))
    nodes = [TextNode(id_="n-Ann", text=change.pop("text", "Ann"))]
    generate_qa_embedding_pairs(nodes, llm, **(options | change))
    assert len(llm.prompts) == 1
    assert len(journal_lines(options)) == 2


def test_other_filters_need_no_new_answers(options):
    """The journal holds whole answers, so that filters can change at no cost."""
    generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    llm = AsyncLLM()
    collected = reports(options)

    def asks_where(question: str, text: str) -> bool:
        return question.startswith("Where")

    dataset = generate_qa_embedding_pairs(make_nodes("Ann"), llm, filters=[asks_where], **options)
    assert llm.texts == []
    assert list(dataset.queries.values()) == ["Who is Ann?"]
    assert collected[0].filtered == {"asks_where": 1}
    assert collected[0].fewer == 1


def test_the_journal_holds_no_key_and_no_text(options):
    """A line is ids, hashes, the model's name and the answer."""
    nodes = [TextNode(id_="n1", text="Ann")]
    llm = AsyncLLM(answers={"Ann": "Who is she?"})
    generate_qa_embedding_pairs(nodes, llm, **options)
    (line,) = journal_lines(options)
    assert set(line) == {"node_id", "content", "prompt", "model", "response"}
    assert line["model"] == "custom_llm/scripted"
    text = Path(options["output_path"] + ".journal.jsonl").read_text("utf-8")
    assert "sk-secret" not in text
    assert "Ann" not in text


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_dropped(options, cut, caplog):
    """A journal cut off inside its last line loses that node only, and goes on cleanly."""
    nodes = make_nodes("Ann", "Bob")
    whole = generate_qa_embedding_pairs(nodes, AsyncLLM(), num_workers=1, **options)
    Path(options["output_path"]).unlink()
    path = Path(options["output_path"] + ".journal.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(nodes, llm, **options) == whole
    assert llm.texts == ["Bob"]
    assert len(journal_lines(options)) == 2
    assert "not finished" in caplog.text


def test_a_lost_journal_costs_nothing(options):
    """The dataset's questions stand in for a journal that was deleted."""
    nodes = make_nodes("Ann", "Bob")
    whole = generate_qa_embedding_pairs(nodes, AsyncLLM(), **options)
    Path(options["output_path"] + ".journal.jsonl").unlink()
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(nodes, llm, **options) == whole
    assert llm.texts == []


def test_unreadable_lines_are_skipped(options, caplog):
    """A damaged line inside the journal costs its node one call, and is reported."""
    nodes = make_nodes("Ann", "Bob")
    generate_qa_embedding_pairs(nodes, AsyncLLM(), num_workers=1, **options)
    Path(options["output_path"]).unlink()
    path = Path(options["output_path"] + ".journal.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"\xff{broken\n" + lines[1])
    llm = AsyncLLM()
    generate_qa_embedding_pairs(nodes, llm, **options)
    assert llm.texts == ["Ann"]
    assert "1 lines of" in caplog.text


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5)),
        max_size=5,
    ),
    st.integers(0, 300),
)
def test_what_was_written_before_a_cut_is_read(tmp_path_factory, records, cut):
    """However a journal of any Unicode is cut, its whole lines come back."""
    path = tmp_path_factory.mktemp("journal") / "j.jsonl"
    keys = [Key(str(i), "c", "p", "m") for i in range(len(records))]
    ends = []
    with Journal(path) as journal:
        for key, (response, _) in zip(keys, records, strict=True):
            journal.add(key, Entry(response))
            ends.append(path.stat().st_size)
    size = max(0, path.stat().st_size - cut)
    path.write_bytes(path.read_bytes()[:size])
    with Journal(path) as journal:
        entries, known = journal.read(set(keys))
    whole = [i for i, end in enumerate(ends) if end <= size]
    assert entries == [(keys[i], Entry(records[i][0])) for i in whole]
    assert known == ({"c"} if whole else set())


def test_a_file_of_the_retired_package_is_continued(options):
    """Its questions and their ids stay, for asked-for nodes with the same text; the rest is new."""
    old = {
        "queries": {"q1": "Who was Ann?", "q2": "Who was Bob?", "q3": "Who was Cid?"},
        "corpus": {
            "n-Ann": "Ann",
            "n-Bob": "Bob, once",
            "n-Cid": "Cid",
            "n-Eve": "",
            "n-Dan": "Dan",
        },
        "relevant_docs": {"q1": ["n-Ann"], "q2": ["n-Bob"], "q3": ["n-Cid"]},
        "mode": "text",
    }
    Path(options["output_path"]).write_text(json.dumps(old), "utf-8")
    llm = AsyncLLM()
    dataset = generate_qa_embedding_pairs(make_nodes("Ann", "Bob", "Dan"), llm, **options)
    assert sorted(llm.texts) == ["Bob", "Dan"]
    assert list(dataset.queries.values()) == [
        "Who was Ann?",
        "Who is Bob?",
        "Where is Bob?",
        "Who is Dan?",
        "Where is Dan?",
    ]
    assert dataset.queries["q1"] == "Who was Ann?"
    assert list(dataset.corpus) == ["n-Ann", "n-Bob", "n-Dan"]

    llm = AsyncLLM()
    again = generate_qa_embedding_pairs(make_nodes("Cid"), llm, **options)
    assert llm.texts == []
    assert again.queries == {"q3": "Who was Cid?"}


def test_a_file_with_a_byte_order_mark_is_continued(options):
    """What from_json reads is read here as well."""
    path = Path(options["output_path"])
    whole = generate_qa_embedding_pairs(make_nodes("Ann"), AsyncLLM(), **options)
    path.with_name("set.json.journal.jsonl").unlink()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert EmbeddingQAFinetuneDataset.from_json(path) == whole
    llm = AsyncLLM()
    assert generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options) == whole
    assert llm.texts == []


@pytest.mark.parametrize(
    "content",
    [
        '{"queries": {',
        "[]",
        '{"queries": {}}',
        "\x00",
        pytest.param("[" * 200_000 + "]" * 200_000, id="nested"),
    ],
)
def test_a_file_that_is_no_dataset_is_not_overwritten(options, content):
    """Something else at the output path stops the run before any call."""
    Path(options["output_path"]).write_text(content, "utf-8")
    llm = AsyncLLM()
    with pytest.raises(DatasetFileError, match="not overwritten"):
        generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    assert llm.texts == []
    assert Path(options["output_path"]).read_text("utf-8") == content


def test_progress_is_saved_every_few_nodes(options):
    """With save_every=2 a run that stops after three answers leaves two nodes' questions."""
    nodes = make_nodes("Ann", "Bob", "Cid", "Dan")
    llm = AsyncLLM(failures={"Dan": [RuntimeError("down")] * 3})
    with pytest.raises(GenerationError):
        generate_qa_embedding_pairs(
            nodes, llm, save_every=2, num_workers=1, on_failure="fail", **options
        )
    saved = EmbeddingQAFinetuneDataset.from_json(options["output_path"])
    assert set(saved.queries.values()) == {
        "Who is Ann?",
        "Where is Ann?",
        "Who is Bob?",
        "Where is Bob?",
    }


def test_equal_questions_of_a_node_are_one(options):
    """Case and punctuation make no second question; further ones are cut at the number wanted."""
    llm = AsyncLLM(answers={"Ann": "Who is Ann?\nwho is ann\nWhere?\nWhen?"})
    dataset = generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    assert list(dataset.queries.values()) == ["Who is Ann?", "Where?"]


def test_filters_drop_and_count(options):
    """By default copies and mentions of the context are dropped, and the next question counts."""
    text = "Lyft was founded in 2012 by Logan Green and John Zimmer."
    answer = (
        "Lyft was founded in 2012 by Logan Green?\nWhat does the passage say?\n"
        "Who founded Lyft?\nWhen was Lyft founded?"
    )
    collected = reports(options)
    llm = AsyncLLM(answers={text: answer})
    dataset = generate_qa_embedding_pairs(make_nodes(text), llm, **options)
    assert list(dataset.queries.values()) == ["Who founded Lyft?", "When was Lyft founded?"]
    assert collected[0].filtered == {"copies_text": 1, "mentions_context": 1}
    unfiltered = generate_qa_embedding_pairs(make_nodes(text), llm, filters=(), **options)
    assert list(unfiltered.queries.values())[1] == "What does the passage say?"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What does the passage above say about Lyft?", True),
        ("According to the text, who founded Lyft?", True),
        ("Based on the information provided, who founded Lyft?", True),
        ("What is mentioned in the document about fees?", True),
        ("Given the context, who founded Lyft?", True),
        ("Was wird im Text über Lyft gesagt?", True),
        ("Selon le texte, qui a fondé Lyft?", True),
        ("What is overfitting in the context of neural networks?", False),
        ("How long is the passage through the Suez canal?", False),
        ("How do I send the text of a message?", False),
        ("Which document retention policy applies?", False),
        ("What is context switching?", False),
        ("What does the context reveal about Lyft?", True),
        ("What is the main focus of the context?", True),
        ("Summarize the context.", True),
        (
            "\u6839\u636e\u63d0\u4f9b\u7684\u4e0a\u4e0b\u6587\uff0c\u8c01\u521b\u7acb\u4e86Lyft\uff1f",
            True,
        ),
        ("\u4e0a\u4e0b\u6587\u63cf\u8ff0\u4e86\u4ec0\u4e48\uff1f", True),
        ("Use the context provided to explain X.", True),
        ("Given the document, who founded Lyft?", True),
        ("What is the text about?", True),
        ("Who founded Lyft according to the passage?", True),
        ("According to this article what is Lyft?", True),
        ("In the context of the article, what is Lyft?", True),
        ("Given the context information, who founded Lyft?", True),
        ("Who is named in the given text?", True),
        ("What can be inferred from the text?", True),
        ("What does the document contain?", True),
        ("What information does the document provide about fees?", True),
        ("Which risks does this section mention?", True),
        ("Which risks, the text explains, are high?", True),
        ("Is the author suggesting a merger?", True),
        ("What are the steps in the text provided?", True),
        ("Explain the context in your own words.", True),
        ("What is the main topic of the document?", True),
        ("What does the author argue?", True),
        ("What does the table show?", True),
        ("Based on the information, who founded Lyft?", True),
        ("What is the main topic of the document class in Beamer?", False),
        ("How does the table show an empty cell in React?", False),
        ("Who uses information from the census?", False),
        ("What if the document is about to expire?", False),
        ("What happens when the context is cancelled in Go?", False),
        ("How do I share state via the context in React?", False),
        ("How is the context vector computed?", False),
        ("How does the context affect word meaning?", False),
        ("How can I embed fonts within the document in Word?", False),
        ("How do I switch the context in kubectl?", False),
        ("How do I pass the context to a Django template?", False),
        ("Does the document contain an _id field in MongoDB?", False),
        ("Wie wird der Text im Text-Editor formatiert?", False),
        ("\u6839\u636e\u4e0a\u4e0b\u6587\uff0c\u8c01\u521b\u7acb\u4e86Lyft\uff1f", True),
        ("\u672c\u6587\u7684\u4e3b\u8981\u89c2\u70b9\u662f\u4ec0\u4e48\uff1f", True),
        ("\u6587\u4e2d\u63d0\u5230\u4e86\u4ec0\u4e48\uff1f", True),
        ("\u65e5\u672c\u6587\u5316\u6709\u4ec0\u4e48\u7279\u70b9\uff1f", False),
        (
            "\u65e5\u672c\u6587\u5b66\u306e\u4ee3\u8868\u4f5c\u306f\u4f55\u3067\u3059\u304b\uff1f",
            False,
        ),
        ("\u7f51\u4e0a\u6587\u4ef6\u5982\u4f55\u4e0a\u4f20\uff1f", False),
        ("\u5728\u4e2d\u6587\u4e2d\u600e\u4e48\u7528\uff1f", False),
    ],
)
def test_mentions_of_the_context(question, expected):
    """References to an unseen text are found; the same words about a subject are not."""
    assert mentions_context(question, "") is expected


WORDS_OF_A_SUBJECT = """\
How do I remove a section from the document in Word?
How do I get the request ID from the context in Go?
How do I change the font using the text tool in Photoshop?
According to the document retention policy, how long must records be kept?
How do I extract text from the document object model?
What happens in the text editor when I press Ctrl+S?
What is stored in the context object of an AWS Lambda function?
Which types are listed in the document object model?
What is stored in the context when a request arrives in ASP.NET?
How do I delete a paragraph from the document?
What context information does a logger add?
What does the context contain in a Go handler?
How does the context provider work in React?
How do you cancel a goroutine using the context?
Which fields does the article list view display?
What are the document states in SharePoint?
Why does a test fail when the text contains spaces?
How do I put the text above the line in Inkscape?
Which penalty does this section provide for theft?
What is the information provided by Equifax used for?
What context provided the setting for the Cold War?
Which given context free grammar is ambiguous?
What is the purpose of the text attribute?
What is the subject of the text message?
How can stop words be removed from the text before indexing?""".splitlines()


@pytest.mark.parametrize(
    "question",
    [
        "How does the passage define entropy?",
        "What examples does the text give of X?",
        "What evidence does the passage provide to support Y?",
        "What reasons does the author give for Z?",
        "What can be learned from the text?",
        "What steps does the document provide for installing W?",
        "How is the term used in the text to describe V?",
        "What evidence does the article provide to support the claim?",
        "What information does the document provide on pricing?",
        "Does the document provide a definition of X?",
        "What information is provided in the document on X?",
        "What are the methods discussed in the article by which X?",
        "As stated in the document under 'Fees', what is the fee?",
    ],
)
def test_mentions_of_the_context_inside_a_clause(question):
    """What goes on behind the text that was read is found as well."""
    assert mentions_context(question, "")


@pytest.mark.parametrize("question", WORDS_OF_A_SUBJECT)
def test_software_and_laws_have_contexts_and_documents_too(question):
    """A question about the context, the document or the text of a program or a law stays."""
    assert not mentions_context(question, "")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("the quick brown fox jumps over", True),
        ("The quick, brown fox jumps over!", True),
        ("Is it fast?", True),
        ("quick brown fox", False),
        ("What does the quick brown fox jump over?", False),
        ("Is it lazy?", False),
    ],
)
def test_copies_of_the_text(question, expected):
    """Six words in a row or a question of the text are copies; keywords and rewordings are not."""
    text = "The quick brown fox jumps over the lazy dog. Is it fast? Yes."
    assert copies_text(question, text) is expected


@pytest.mark.parametrize(
    "mark", [".[3]", "\u2014mostly", "/Portugal", "...and", "(see Table 2)", "\u2019s own"]
)
def test_a_copy_ends_at_any_mark(mark):
    """Footnotes, dashes and brackets stand between words, and apostrophes are all alike."""
    text = f"The company was founded by two students{mark} and grew."
    if mark.endswith("own"):
        assert copies_text("was founded by two students's own", text)
    else:
        assert copies_text("The company was founded by two students", text)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf", False),
        ("\uc778\uacf5\uc9c0\ub2a5 \uae30\uc220", False),
        ("\u092d\u093e\u0930\u0924 \u0915\u0940 \u0930\u093e\u091c\u0927\u093e\u0928\u0940", False),
        ("CVE-2024-12345 OpenSSL 3.0.1", False),
        ("192.168.0.1 port 8080", False),
        (
            "\u30b3\u30f3\u30d4\u30e5\u30fc\u30bf\u306f\u8a08\u7b97\u3092\u884c\u3046\u6a5f\u68b0\u3067\u3042\u308a\u307e\u3059",
            True,
        ),
    ],
)
def test_keywords_of_any_script_are_no_copies(question, expected):
    """A word of six characters is a word, and so are numbers and identifiers with marks."""
    assert copies_text(question, f"{question}\u3002 More of it, ({question}).") is expected


def test_language_and_style_reach_the_prompt(options):
    """The style's prompt is used, and the language named in it, braces and all."""
    del options["qa_generate_prompt_tmpl"]
    head = QA_PROMPTS["keyword"].partition("\n---")[0]
    llm = AsyncLLM(answers={head: "ann queen"})
    generate_qa_embedding_pairs(
        make_nodes("Ann"), llm, style="keyword", language="{Old} Norse", **options
    )
    assert "keyword queries" in llm.prompts[0]
    assert "Write in this language: {Old} Norse." in llm.prompts[0]
    assert "Write 2 different" in llm.prompts[0]


def test_a_template_of_llama_index_is_one(options, tmp_path):
    """As with the retired function; what is no template at all is told by its type."""
    llm = AsyncLLM()
    options["qa_generate_prompt_tmpl"] = PromptTemplate("Ask about {context_str} briefly.")
    generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    assert [prompt.startswith("Ask about ") for prompt in llm.prompts] == [True]
    mapped = PromptTemplate(
        "{lang} {ctx} {{braced}}", lang="Old {Norse}", template_var_mappings={"context_str": "ctx"}
    )
    options["qa_generate_prompt_tmpl"] = [mapped]
    options["output_path"] = str(tmp_path / "mapped.json")
    generate_qa_embedding_pairs(make_nodes("Bea"), llm, **options)
    assert llm.prompts[1].startswith("Old {Norse} ")
    assert "Bea" in llm.prompts[1]
    options["qa_generate_prompt_tmpl"] = PromptTemplate(
        "{context_str}", function_mappings={"context_str": lambda context_str: context_str}
    )
    with pytest.raises(ConfigurationError, match="without 'function_mappings'"):
        generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    options["qa_generate_prompt_tmpl"] = 3
    with pytest.raises(ConfigurationError, match="must be a template, or several.*got int"):
        generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)


def test_several_templates_are_mixed_in_a_stable_way(options):
    """Every node gets one of the templates, and the same one in another run and company."""
    options["qa_generate_prompt_tmpl"] = [TEMPLATE + " one", TEMPLATE + " two"]
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes(*"abcdefghijklmnop"), llm, **options)
    ends = Counter(prompt.rsplit(" ", 1)[1] for prompt in llm.prompts)
    assert set(ends) == {"one", "two"}
    llm = AsyncLLM()
    generate_qa_embedding_pairs(make_nodes(*"ponmlk"), llm, **options)
    assert llm.texts == []


def test_answers_are_kept(options, tmp_path):
    """The prompt asks for answers, and the file maps each question's id to its answer."""
    path = tmp_path / "answers.json"
    llm = AsyncLLM(answers={"Ann": "Who is Ann?\nAnswer: A queen.\nWhere is Ann?"})
    dataset = generate_qa_embedding_pairs(make_nodes("Ann"), llm, answers_path=path, **options)
    assert "Answer:" in llm.prompts[0]
    who = next(qid for qid, query in dataset.queries.items() if query == "Who is Ann?")
    assert json.loads(path.read_text("utf-8")) == {who: "A queen."}


@pytest.mark.parametrize(
    "answer",
    [
        '[{"answer": "A queen.", "question": "Who is Ann?"},'
        ' {"answer": "Bath.", "question": "Where?"}]',
        '{"questions": ["Who is Ann?", "Where?"], "answers": ["A queen.", "Bath."]}',
        "Answer: A queen.\nQuestion: Who is Ann?\nAnswer: Bath.\nQuestion: Where?",
    ],
)
def test_the_file_of_answers_mixes_up_none(options, tmp_path, answer):
    """In whatever order an LLM writes them, each question's answer is its own."""
    path = tmp_path / "answers.json"
    llm = AsyncLLM(answers={"Ann": answer})
    dataset = generate_qa_embedding_pairs(make_nodes("Ann"), llm, answers_path=path, **options)
    answers = json.loads(path.read_text("utf-8"))
    found = {query: answers[qid] for qid, query in dataset.queries.items()}
    assert found == {"Who is Ann?": "A queen.", "Where?": "Bath."}


def test_older_answers_are_set_aside(options, tmp_path, caplog):
    """What a file of answers holds beyond the new ones, or instead of any, stays in another."""
    path = tmp_path / "answers.json"
    llm = AsyncLLM(answers={name: f"Who is {name}?\nAnswer: {name}." for name in ("Ann", "Bob")})
    for names in (("Ann", "Bob"), ("Ann", "Bob"), ("Ann",)):
        assert not (tmp_path / "answers.bak.json").exists()
        generate_qa_embedding_pairs(make_nodes(*names), llm, answers_path=path, **options)
    assert len(json.loads((tmp_path / "answers.bak.json").read_text("utf-8"))) == 2
    path.write_text('{"precious": 1}')
    generate_qa_embedding_pairs(make_nodes("Ann"), llm, answers_path=path, **options)
    assert (tmp_path / "answers.bak2.json").read_text() == '{"precious": 1}'
    assert len(json.loads(path.read_text("utf-8"))) == 1


def test_nodes_out_of_a_generator(options):
    """They are gone through once."""
    dataset = generate_qa_embedding_pairs(iter(make_nodes("Ann", "Bob")), AsyncLLM(), **options)
    assert questions_by_text(dataset).keys() == {"Ann", "Bob"}


def test_answers_have_a_file_of_their_own(options, tmp_path):
    """Where the questions go, and a folder that is none, are refused before anything is asked."""
    llm = AsyncLLM()
    (tmp_path / "file").touch()
    options["output_path"] = tmp_path / "all.json"
    for path, error in (
        ("all.json", ConfigurationError),
        ("all.json.journal.jsonl", ConfigurationError),
        ("file/answers.json", OutputError),
    ):
        with pytest.raises(error, match="answers_path"):
            generate_qa_embedding_pairs(
                make_nodes("Ann"), llm, answers_path=tmp_path / path, **options
            )
    assert llm.prompts == []


def test_sampling_asks_some_nodes_and_keeps_all_documents(options, tmp_path):
    """Three of ten nodes are asked; a larger sample holds them, another seed draws others."""
    nodes = make_nodes(*"abcdefghij")
    samples = {}
    for name, arguments in {
        "three": {"sample_size": 3},
        "five": {"sample_size": 5},
        "other seed": {"sample_size": 3, "seed": 7},
        "all": {"sample_size": 99},
    }.items():
        llm = AsyncLLM()
        options["output_path"] = str(tmp_path / f"{name}.json")
        dataset = generate_qa_embedding_pairs(nodes, llm, **options, **arguments)
        assert len(dataset.corpus) == 10
        samples[name] = set(llm.texts)
    assert {name: len(sample) for name, sample in samples.items()} == {
        "three": 3,
        "five": 5,
        "other seed": 3,
        "all": 10,
    }
    assert samples["three"] < samples["five"]
    assert samples["three"] != samples["other seed"]


def test_the_counts_are_logged_in_one_line(options, caplog):
    """One INFO line has made, reused, failed, skipped and filtered counts."""
    caplog.set_level(logging.INFO)
    llm = AsyncLLM(failures={"Bob": [RuntimeError("down")] * 3}, answers={"Cid": "Who is Cid?"})
    nodes = [*make_nodes("Ann", "Bob", "Cid"), TextNode(id_="e", text="")]
    generate_qa_embedding_pairs(nodes, llm, **options)
    assert (
        "3 questions for 2 of 4 nodes (0 from earlier runs, 1 with fewer than wanted, 1 failed, "
        "1 skipped; filtered: none)"
    ) in caplog.text


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_shows_progress_and_failed_attempts(options, verbose, caplog, capsys):
    """A bar with the counts and a warning per failed attempt, or neither; nothing is printed."""
    options["verbose"] = verbose
    llm = AsyncLLM(failures={"Ann": [RuntimeError("down")]})
    generate_qa_embedding_pairs(make_nodes("Ann"), llm, **options)
    output = capsys.readouterr()
    assert output.out == ""
    assert ("made=1, skipped=0, failed=0" in output.err) is verbose
    assert ("attempt 1 of 3 failed: RuntimeError: down" in caplog.text) is verbose


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_questions_per_chunk": 0}, "'num_questions_per_chunk' must be an integer of"),
        ({"retry_limit": 0}, r"'retry_limit' must be an integer of at least 1 \(got 0\)"),
        ({"retry_limit": True}, "'retry_limit' must be"),
        ({"save_every": 1.5}, "'save_every' must be"),
        ({"num_workers": -1}, "'num_workers' must be"),
        ({"sample_size": 0}, "'sample_size' must be"),
        ({"on_failure": "stop"}, r"'on_failure' must be in \('continue', 'fail'\) \(got 'stop'\)"),
        ({"retry_wait": -1.0}, "'retry_wait' must be"),
        ({"retry_wait": float("nan")}, "'retry_wait' must be"),
        ({"retry_wait": "1"}, "'retry_wait' must be"),
        ({"seed": [1]}, "'seed' must be"),
        ({"output_path": None}, r"'output_path' must be the path of a file \(got None\)"),
        ({"answers_path": 3}, r"'answers_path' must be the path of a file \(got 3\)"),
        ({"on_finish": "x"}, r"'on_finish' must be a function .* \(got 'x'\)"),
        ({"style": ["exam"]}, r"'style' must be in .* \(got \['exam'\]\)"),
        ({"language": True}, "'language' must name a language"),
        ({"qa_generate_prompt_tmpl": "{context_str!x}"}, "is no template"),
        ({"qa_generate_prompt_tmpl": "{context_str:5d}"}, "is no template"),
        ({"qa_generate_prompt_tmpl": "{context_str:{w}}"}, "is no template"),
        ({"qa_generate_prompt_tmpl": PromptTemplate("{context_str} {query_str}")}, "and no other"),
        ({"nodes": None}, "'nodes' must be a list of LlamaIndex nodes .*one 'NoneType'"),
        ({"llm": AsyncLLM}, r"got the class AsyncLLM\). Write AsyncLLM\(...\)"),
        ({"filters": ["context"]}, "'filters' must be a list of functions"),
        ({"filters": None}, "'filters' must be a list of functions"),
        ({"filters": copies_text}, "'filters' must be a list of functions"),
        ({"style": "haiku"}, r"'style' must be in .* \(got 'haiku'\)"),
        ({"style": "exam"}, "give one of them"),
        ({"language": " "}, "'language' must name a language"),
        ({"qa_generate_prompt_tmpl": []}, "must hold a template"),
        ({"qa_generate_prompt_tmpl": "no placeholder"}, r"placeholder \{context_str\}"),
        ({"qa_generate_prompt_tmpl": "{context_str} {x}"}, "and no other"),
        ({"qa_generate_prompt_tmpl": '{context_str} {"a": 1'}, "twice"),
        ({"nodes": []}, "at least one node with a text"),
        ({"nodes": [TextNode(text=" ")]}, "at least one node with a text"),
        ({"nodes": ["text"]}, "'nodes' must be a list of LlamaIndex nodes \\(got some 'str'\\)"),
        ({"llm": None}, r"'llm' must be a LlamaIndex LLM \(got NoneType\)"),
    ],
)
def test_bad_arguments_are_refused_before_any_call(options, arguments, message):
    """Each wrong argument is named with its value, and no file is left behind."""
    llm = AsyncLLM()
    every = {"nodes": make_nodes("Ann"), "llm": llm} | options | arguments
    with pytest.raises(ConfigurationError, match=message):
        generate_qa_embedding_pairs(**every)
    assert llm.texts == []
    assert list(Path(options["output_path"]).parent.iterdir()) == []


def test_an_unusable_place_is_refused_before_any_call(options, tmp_path):
    """A folder, or a place below a file, can't hold the dataset."""
    llm = AsyncLLM()
    with pytest.raises(ConfigurationError, match="'output_path' must be a file"):
        generate_qa_embedding_pairs(make_nodes("a"), llm, **options | {"output_path": tmp_path})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Can't write .*set\.json"):
        generate_qa_embedding_pairs(
            make_nodes("a"), llm, **options | {"output_path": tmp_path / "file" / "set.json"}
        )
    assert llm.texts == []


def test_a_later_node_with_the_same_id_replaces_the_first(options, caplog):
    """As in the retired function the last text counts; the replacement is reported."""
    nodes = [TextNode(id_="n", text="Ann"), TextNode(id_="n", text="Bob")]
    dataset = generate_qa_embedding_pairs(nodes, AsyncLLM(), **options)
    assert dataset.corpus == {"n": "Bob"}
    assert "1 nodes have the id of another node" in caplog.text


def test_the_text_is_the_one_without_metadata(options):
    """A node's metadata is neither in the prompt nor in the corpus."""
    nodes = [TextNode(id_="n", text="Ann", metadata={"file": "secret.pdf"})]
    llm = AsyncLLM()
    dataset = generate_qa_embedding_pairs(nodes, llm, **options)
    assert "secret" not in llm.prompts[0]
    assert dataset.corpus == {"n": "Ann"}


def test_halves_of_surrogate_pairs_do_no_harm(options):
    """What no UTF-8 file can hold is dropped from texts and answers."""
    llm = AsyncLLM(answers={"Ann": "Who\ud83d is Ann?"})
    dataset = generate_qa_embedding_pairs([TextNode(id_="n", text="A\udc00nn")], llm, **options)
    assert list(dataset.queries.values()) == ["Who is Ann?"]
    assert EmbeddingQAFinetuneDataset.from_json(options["output_path"]) == dataset


def test_interrupted_run_leaves_the_journal(options):
    """Cancelling the awaitable keeps the answers that came."""

    async def main() -> None:
        class HangingLLM(AsyncLLM):
            async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any):
                if prompt.startswith("Bob"):
                    asyncio.get_running_loop().call_soon(task.cancel)
                    await asyncio.Event().wait()
                await asyncio.sleep(0)
                return self.answer(prompt)

        task = asyncio.ensure_future(
            agenerate_qa_embedding_pairs(
                make_nodes("Ann", "Bob"), HangingLLM(), num_workers=1, **options
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [line["node_id"] for line in journal_lines(options)] == ["n-Ann"]


KILLED = textwrap.dedent(
    """
    import os, signal, sys, threading
    from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
    from llama_index.core.schema import TextNode
    from llama_index.finetuning.embeddings.generation import generate_qa_embedding_pairs

    output, calls_file = sys.argv[1:]
    lock = threading.Lock()

    class LLM(CustomLLM):
        kill_at: int

        @property
        def metadata(self):
            return LLMMetadata(model_name="m")

        def complete(self, prompt, formatted=False, **kwargs):
            with lock:
                with open(calls_file, "ab") as calls:
                    calls.write(b"x")
                if os.path.getsize(calls_file) == self.kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return CompletionResponse(text=f"Who is {prompt}?")

        def stream_complete(self, prompt, formatted=False, **kwargs):
            raise NotImplementedError

    def run(kill_at):
        child = os.fork()
        if child == 0:
            nodes = [TextNode(id_=str(i), text=f"person {i}") for i in range(40)]
            generate_qa_embedding_pairs(
                nodes, LLM(kill_at=kill_at), "{context_str}", 1, save_every=3,
                output_path=output, verbose=False, num_workers=4,
            )
            os._exit(0)
        return os.waitpid(child, 0)[1]

    deaths = [run(kill_at) for kill_at in (1, 7, 18, 19, 33)]
    assert deaths == [signal.SIGKILL] * 5, deaths
    assert run(0) == 0
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_five_times_and_resumed(tmp_path):
    """The dataset equals an unbroken one, and only calls in flight at a kill are paid twice."""
    output, calls = tmp_path / "set.json", tmp_path / "calls"
    subprocess.run([sys.executable, "-c", KILLED, str(output), str(calls)], check=True, timeout=120)
    dataset = EmbeddingQAFinetuneDataset.from_json(output)
    assert list(dataset.queries.values()) == [f"Who is person {i}?" for i in range(40)]
    assert list(dataset.corpus) == [str(i) for i in range(40)]
    assert 40 < calls.stat().st_size <= 40 + 5 * 4


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (http_error(429, {"retry-after": "7"}), 7.0),
        (http_error(429, {"Retry-After": "2.5"}), 2.5),
        (http_error(429, {"retry-after-ms": "1500", "retry-after": "2"}), 1.5),
        (RateLimitError("Rate limit reached. Please try again in 20s."), 20.0),
        (RateLimitError("Please try again in 1m2.5s. Visit ..."), 62.5),
        (RateLimitError("Please try again in 350ms."), 0.35),
        (RateLimitError("Please retry after 9 seconds."), 9.0),
        (RateLimitError("Retry-After: 4"), 4.0),
        (RateLimitError('{"retryDelay": "37s"}'), 37.0),
        (RateLimitError("retry_delay {\n  seconds: 12\n}"), 12.0),
        (RateLimitError("Too many requests"), None),
        (boto_error(429, {"retry-after": "8"}), 8.0),
        (RuntimeError("The file took 20s, please try again in a better place"), None),
        (http_error(500, {"retry-after": "soon"}), None),
    ],
)
def test_told_waits(error, seconds):
    """Headers first, then the messages of well-known services."""
    assert told_wait(error) == (None if seconds is None else pytest.approx(seconds))


def test_told_waits_as_attribute_and_date():
    """An attribute counts, as number or duration; so does the HTTP standard's date."""
    error = RateLimitError()
    error.retry_after = timedelta(seconds=3)
    assert told_wait(error) == 3.0
    error.retry_after = 4
    assert told_wait(error) == 4.0
    moment = datetime.now(timezone.utc) + timedelta(hours=1)
    for date in (format_datetime(moment, usegmt=True), format_datetime(moment)[:-6]):
        wait = told_wait(http_error(503, {"retry-after": date}))
        assert wait is not None
        assert 3500 < wait <= 3600


@pytest.mark.parametrize(
    ("status", "expected"), [(400, True), (401, True), (404, True), (408, False), (429, False)]
)
def test_permanent_errors(status, expected):
    """Client errors are permanent, except those that mean "later"; others are not."""
    assert is_permanent(http_error(status)) is expected
    assert is_permanent(boto_error(status)) is expected
    foreign = RuntimeError()
    foreign.status = status
    assert is_permanent(foreign) is expected
    assert not is_permanent(http_error(500))
    assert is_permanent(http_error(400, text="The prompt has 4290 tokens"))
    for harmless in (
        http_error(400, text="The prompt has 4290 tokens"),
        RuntimeError("CUDA out of memory. Tried to allocate 1429.00 MiB"),
        ValueError("could not parse: 'the rate limit exceeded 429'"),
        http_error(400, text="The text quotes a ThrottlingException"),
    ):
        assert not limits_rate(harmless)
    for limit in (RuntimeError("Error code: 429"), RuntimeError("HTTP 429 Too Many Requests")):
        assert limits_rate(limit)
    assert is_permanent(http_error(400, text="The text quotes a ThrottlingException"))
    assert not is_permanent(RuntimeError())


def test_a_missing_key_is_permanent():
    """OpenAI's client raises its base class itself before it asks; a lost connection may pass."""
    openai = pytest.importorskip("openai")
    httpx = pytest.importorskip("httpx")
    assert is_permanent(openai.OpenAIError("no key"))
    assert not is_permanent(openai.APIConnectionError(request=httpx.Request("POST", "http://x")))


@pytest.mark.parametrize(("status", "calls"), [(401, 1), (503, 3)], ids=["refused", "may pass"])
def test_a_refused_embedding_is_not_repeated(monkeypatch, status, calls):
    """Embedding heeds the same rule: a wrong key is asked with once, a busy service three times."""
    monkeypatch.setattr(patience, "_RETRY_WAITS", (0.0, 0.0))

    class Refusing(HashEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            super()._get_text_embeddings(texts)
            raise http_error(status, text="no such key")

    model = Refusing()
    with pytest.raises(EncodingError, match="no such key"):
        encode(model, ["amber"], "text")
    assert len(model.text_batches) == calls


def test_an_embedding_that_is_limited_without_a_figure(monkeypatch):
    """Embedding waits longer each time, as it does for a told wait, and goes on."""
    waits: list[float] = []
    monkeypatch.setattr(
        threading.Event, "wait", lambda self, seconds=None: waits.append(seconds) or False
    )

    class Limited(HashEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            if len(waits) < 5:
                raise boto_error(400, code="ThrottlingException")
            return super()._get_text_embeddings(texts)

    encode(Limited(), ["amber"], "text")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


class FakeTime:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def test_back_off_doubles_up_to_a_minute():
    """1, 2, 4 ... 60 seconds, each up to a quarter longer."""
    time = FakeTime()
    pace = Pace(1.0, seed=0, clock=time.clock, sleep=time.sleep)

    async def fail_often() -> None:
        for attempt in range(1, 9):
            await pace.after(RuntimeError(), attempt, Told())

    asyncio.run(fail_often())
    for slept, base in zip(time.sleeps, (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert base <= slept <= 1.25 * base
    assert len({slept / base for slept, base in zip(time.sleeps, (1, 2, 4), strict=False)}) == 3


def test_a_told_wait_holds_everyone_back():
    """After "try again in 20s" the caller and every other one wait until then, not longer."""
    time = FakeTime()
    pace = Pace(1.0, seed=0, clock=time.clock, sleep=time.sleep)

    async def main() -> None:
        await pace.ready()
        assert time.sleeps == []
        caller = asyncio.ensure_future(pace.after(RateLimitError("try again in 20s"), 1, Told()))
        await caller
        await pace.ready()

    asyncio.run(main())
    assert len(time.sleeps) == 1
    assert 20.0 <= time.sleeps[0] <= 20.25


def test_nothing_but_told_waits_comes_to_an_end():
    """After five minutes without an answer the service is given up; an answer starts anew."""
    time = FakeTime()
    pace = Pace(1.0, seed=0, clock=time.clock, sleep=time.sleep)
    error = RateLimitError("try again in 0s")

    async def waits(told: Told) -> None:
        while not pace.gives_up(error, told):
            await pace.after(error, 1, told)

    told = Told()
    asyncio.run(waits(told))
    assert 240 <= told.count <= 301
    assert "5 minutes" in pace.dead_end(error, told)


def test_who_waits_alone_does_not_hold_back_the_others():
    """Where others were answered since a caller was told to wait, its request is to blame."""
    time = FakeTime()
    pace = Pace(1.0, seed=0, clock=time.clock, sleep=time.sleep)
    error, told = RateLimitError("try again in 20s"), Told()

    async def main() -> None:
        while not pace.gives_up(error, told):
            await pace.after(error, 1, told)
            pace.answered()
            before = len(time.sleeps)
            await pace.ready()
            assert len(time.sleeps) == before

    asyncio.run(main())
    assert told.count == 20  # after so many answers to others
    assert pace.dead_end(error, told) is None


def test_a_long_told_wait_is_logged_once(caplog):
    """Eight workers that are told to wait two minutes make one line, not eight."""
    time = FakeTime()
    pace = Pace(1.0, seed=0, clock=time.clock, sleep=time.sleep)

    async def main() -> None:
        error = RateLimitError("try again in 2m")
        await asyncio.gather(*(pace.after(error, 1, Told()) for _ in range(8)))

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)  # lets the others ask
        time.now += seconds / 8

    pace._sleep = sleep
    asyncio.run(main())
    assert caplog.text.count("going on in 120 seconds") == 1
