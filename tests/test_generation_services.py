"""Generation with services that are down, refuse, or limit the rate in ways of their own."""

import asyncio
import email.message
import io
import urllib.error
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode

from llama_index.finetuning.embeddings import GenerationError
from llama_index.finetuning.embeddings.generation import generate_qa_embedding_pairs, retry
from llama_index.finetuning.embeddings.generation.retry import Pace, Told
from llama_index.finetuning.embeddings.service_errors import (
    asks_to_wait,
    is_permanent,
    limits_rate,
    refuses_all,
    told_wait,
)

TOO_LARGE = (
    "Error code: 429 - {'error': {'message': 'Request too large for gpt-4o in organization org-x "
    "on tokens per min (TPM): Limit 30000, Requested 40000.', 'code': 'rate_limit_exceeded'}}"
)
BAD_KEY = (
    "400 INVALID_ARGUMENT. {'error': {'message': 'API key not valid. Please pass a valid API "
    "key.', 'details': [{'reason': 'API_KEY_INVALID'}]}}"
)
NO_CREDIT = "Your credit balance is too low to access the Anthropic API."


class HTTPError(Exception):
    """An error as the clients of services raise it."""

    def __init__(self, status: int, text: str = "no", **headers: str) -> None:
        super().__init__(text)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = SimpleNamespace(status_code=status, headers=named)


class LLM(CustomLLM):
    """Asks two questions about each text; ``fails`` may say with which error it fails instead."""

    _fails: Callable[[str, int], Exception | None] = PrivateAttr()
    _texts: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, fails: Callable[[str, int], Exception | None] = lambda text, n: None):
        super().__init__()
        self._fails = fails

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="m")

    @property
    def texts(self) -> list[str]:
        """The text of every call, in order."""
        return self._texts

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        await asyncio.sleep(0)
        self._texts.append(prompt)
        if (error := self._fails(prompt, len(self._texts))) is not None:
            raise error
        return CompletionResponse(text=f"1. Who is {prompt}?\n2. Where is {prompt}?")


TEXTS = tuple(f"text {i}" for i in range(120))


def generate(folder, llm: LLM, texts=TEXTS, num_workers: int = 1):
    """Generate questions, and return the texts that have some."""
    dataset = generate_qa_embedding_pairs(
        [TextNode(id_=f"n-{text}", text=text) for text in texts],
        llm,
        "{context_str}",
        output_path=folder / "set.json",
        verbose=False,
        num_workers=num_workers,
        retry_wait=0,
    )
    return {dataset.corpus[one] for found in dataset.relevant_docs.values() for one in found}


class FakeTime:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


# --- errors that hit every request --------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        HTTPError(400, BAD_KEY),
        HTTPError(400, "API key not valid. Please pass a valid API key."),
        HTTPError(400, NO_CREDIT),
        RuntimeError(NO_CREDIT),
        HTTPError(400, "{'code': 'billing_hard_limit_reached'}"),
        HTTPError(429, "{'code': 'billing_not_active'}"),
    ],
    ids=str,
)
def test_a_wrong_key_or_an_empty_account_stops_the_run_at_once(tmp_path, error):
    """The first such refusal is the last call, and the answers before it are kept."""
    llm = LLM(lambda text, n: error if n > 10 else None)
    with pytest.raises(GenerationError, match=r"would refuse all others too.* 10 answers"):
        generate(tmp_path, llm)
    assert len(llm.texts) == 11


def test_a_text_about_keys_says_nothing_about_the_key():
    """A fault of the program that quotes such words is no refusal of the service."""
    assert not refuses_all(ValueError("could not parse: 'API key not valid'"))
    assert refuses_all(RuntimeError("API key not valid"))


@pytest.mark.parametrize("answered", [0, 10])
def test_errors_that_every_request_meets_stop_the_run(tmp_path, answered):
    """After fifty texts in a row whose requests were wrong, no other is asked about."""
    llm = LLM(lambda text, n: HTTPError(400, "unknown field 'x'") if n > answered else None)
    with pytest.raises(GenerationError, match="probably refuse all others"):
        generate(tmp_path, llm)
    assert len(llm.texts) == answered + 50


def test_wrong_requests_between_answers_stop_nothing(tmp_path):
    """However many there are in all, an answer starts the count anew."""
    llm = LLM(lambda text, n: HTTPError(400) if n % 4 else None)
    assert generate(tmp_path, llm) == set(TEXTS[3::4])
    assert len(llm.texts) == len(TEXTS)


@pytest.mark.parametrize(
    "error",
    [HTTPError(400, "maximum context length is 8192"), HTTPError(413), HTTPError(403, "flagged")],
    ids=str,
)
def test_errors_that_are_said_to_be_of_one_text_stop_nothing(tmp_path, error):
    """Any number of texts may be too long or barred, also when only they are left to ask about."""
    for calls in (len(TEXTS), len(TEXTS) - 1):
        llm = LLM(lambda text, n: error if text != TEXTS[0] else None)
        assert generate(tmp_path, llm) == {TEXTS[0]}
        assert len(llm.texts) == calls


@pytest.mark.parametrize("error", [HTTPError(400), HTTPError(403), ConnectionError("nobody")])
def test_the_last_texts_fail(tmp_path, error):
    """Where no text is left to be spared, the dataset of the others is written."""
    llm = LLM(lambda text, n: error if text in TEXTS[10:60] else None)
    assert generate(tmp_path, llm, TEXTS[:60]) == set(TEXTS[:10])


# --- a service that is gone ---------------------------------------------------------------------


def test_a_service_that_dies_on_the_way(tmp_path):
    """After fifty texts in a row without an answer the run stops, however many came before."""
    llm = LLM(lambda text, n: ConnectionError("nobody listens") if n > 10 else None)
    with pytest.raises(GenerationError, match=r"50 requests have not been answered.* 10 answers"):
        generate(tmp_path, llm)
    assert len(llm.texts) == 10 + 50 * 3


@pytest.mark.parametrize("num_workers", [1, 8])
def test_a_run_that_is_taken_up_while_the_service_is_gone(tmp_path, num_workers):
    """The answers of the run before don't keep it asking for ever."""
    generate(tmp_path, LLM(), TEXTS[:1])
    llm = LLM(lambda text, n: ConnectionError("nobody listens"))
    with pytest.raises(GenerationError, match="nobody listens.* 1 answers"):
        generate(tmp_path, llm, num_workers=num_workers)
    assert 50 * 3 <= len(llm.texts) <= (50 + num_workers) * 3


def test_lost_connections_between_answers_stop_nothing(tmp_path):
    """Two texts in three fail three times each, and every third one is answered."""
    llm = LLM(lambda text, n: None if TEXTS.index(text) % 3 == 0 else ConnectionError("lost"))
    assert generate(tmp_path, llm) == set(TEXTS[::3])


# --- a request beyond the limit -----------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [HTTPError(429, TOO_LARGE, retry_after="20"), RuntimeError(TOO_LARGE)], ids=type
)
def test_a_request_beyond_the_limit_is_one_texts_failure(tmp_path, error):
    """It is not waited for, and the others are asked about, in this run and in the next."""
    assert is_permanent(error)
    assert not limits_rate(error)
    assert not asks_to_wait(error)
    for calls in (6, 1):
        llm = LLM(lambda text, n: error if text == TEXTS[0] else None)
        assert generate(tmp_path, llm, TEXTS[:6]) == set(TEXTS[1:6])
        assert len(llm.texts) == calls
    assert limits_rate(HTTPError(429, "Rate limit reached: Limit 30000, Requested 2000"))


# --- waits --------------------------------------------------------------------------------------


def in_the_past() -> str:
    """Return a date as the header holds it."""
    return format_datetime(datetime.now(timezone.utc) - timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("told", ["0", "-1", "nan", "0.01", "past"])
def test_who_is_told_to_ask_at_once_pauses_all_the_same(status, told):
    """Five minutes of such words are some twenty requests of a caller, not thousands."""
    error = HTTPError(status, retry_after=in_the_past() if told == "past" else told)
    time = FakeTime()
    pace = Pace(0.0, seed=0, clock=time.clock, sleep=time.sleep)
    told_so_far = Told()

    async def main() -> None:
        while not pace.gives_up(error, told_so_far):
            await pace.after(error, 1, told_so_far)

    asyncio.run(main())
    assert 8 <= told_so_far.count <= 25
    assert 300 <= time.now - 100 <= 360


def test_a_busy_service_that_says_to_ask_at_once(tmp_path, monkeypatch):
    """A run of two workers that hear nothing else makes few calls before it gives up."""
    monkeypatch.setattr(retry, "_LONGEST_TOLD", 0.1)
    llm = LLM(lambda text, n: HTTPError(429, retry_after="0"))
    with pytest.raises(GenerationError, match="nothing but to wait"):
        generate(tmp_path, llm, num_workers=2)
    assert len(llm.texts) < 20


def test_at_once_is_no_wait_where_nothing_is_limited(tmp_path):
    """An inner error that says so is a failed attempt like any other, of which there are three."""
    error = HTTPError(500, retry_after="0")
    assert told_wait(error) is None
    assert told_wait(HTTPError(500, retry_after="3")) == 3.0
    llm = LLM(lambda text, n: error if text == TEXTS[0] else None)
    assert generate(tmp_path, llm, TEXTS[:3]) == set(TEXTS[1:3])
    assert Counter(llm.texts)[TEXTS[0]] == 3


def test_headers_that_the_error_holds_itself():
    """The wait is read from the errors of aiohttp and urllib as from any other client's."""
    aiohttp = pytest.importorskip("aiohttp")
    from multidict import CIMultiDict, CIMultiDictProxy

    headers = CIMultiDictProxy(CIMultiDict({"Retry-After": "7"}))
    request = aiohttp.RequestInfo("http://x", "POST", headers, "http://x")
    for given, wait in ((headers, 7.0), (None, None)):
        error = aiohttp.ClientResponseError(request, (), status=429, headers=given)
        assert told_wait(error) == wait
        assert limits_rate(error)
    message = email.message.Message()
    message["Retry-After"] = "8"
    with urllib.error.HTTPError("http://x", 429, "no", message, io.BytesIO()) as http_error:
        assert told_wait(http_error) == 8.0
