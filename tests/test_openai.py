"""The door to OpenAI: recording chats, checking the file, and the job, over a real HTTP server."""

import asyncio
import copy
import email
import inspect
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.llms import (
    LLM,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.tools import FunctionTool

import llama_index.finetuning as door
from llama_index.finetuning import OpenAIFinetuneEngine, OpenAIFineTuningHandler
from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    DatasetError,
    DatasetFileError,
    MissingExtraError,
    OutputError,
    TrainingError,
)
from llama_index.finetuning.openai import FinetuningJobError
from llama_index.finetuning.openai.examples import read_example
from llama_index.finetuning.openai.tokens import TokenCounter
from llama_index.finetuning.openai.validate_json import validate_json

openai = pytest.importorskip("openai")
llm_module = pytest.importorskip("llama_index.llms.openai")

KEY = "sk-test-0123456789abcdef"
MODEL = "gpt-4o-mini-2024-07-18"
TUNED = f"ft:{MODEL}:acme::abc123"
JOB = "ftjob-1"
PLAIN = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}


# --- a server that speaks the fine-tuning API -------------------------------------------------


class Api(ThreadingHTTPServer):
    """Its state: what it was sent, and what it is to answer next."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests: list[str] = []
        self.uploads: list[dict[str, Any]] = []
        self.chats: list[dict[str, Any]] = []
        self.busy = 0  # how many requests to turn away first
        self.file_states = ["processed"]  # the last one stays
        self.file_details: str | None = None
        self.job_states = ["validating_files"]
        self.job_error: dict[str, Any] | None = None
        self.named_in = {"succeeded"}  # the states in which a job names its model
        self.jobs: list[dict[str, Any]] = []

    def file(self, state):
        """Return a file object."""
        upload = self.uploads[-1]
        return {
            "id": "file-1",
            "object": "file",
            "bytes": len(upload["content"]),
            "created_at": 1,
            "filename": upload["filename"],
            "purpose": upload["purpose"],
            "status": state,
            "status_details": self.file_details,
        }

    def job(self, state):
        """Return a job object."""
        return {
            "id": JOB,
            "object": "fine_tuning.job",
            "created_at": 2,
            "model": MODEL,
            "fine_tuned_model": TUNED if state in self.named_in else None,
            "error": self.job_error if state == "failed" else {},
            "hyperparameters": {"n_epochs": "auto"},
            "organization_id": "org-1",
            "result_files": [],
            "seed": 1,
            "status": state,
            "training_file": "file-1",
        }


def after(states):
    """Move to the next state; the last one stays."""
    return states.pop(0) if len(states) > 1 else states[0]


class Answers(BaseHTTPRequestHandler):
    """One request of the API."""

    server: Api

    def log_message(self, format, *args):
        """Be silent."""

    def do_GET(self):
        self.handle_request(b"")

    def do_POST(self):
        self.handle_request(self.rfile.read(int(self.headers["Content-Length"])))

    def handle_request(self, body):
        api = self.server
        api.requests.append(f"{self.command} {self.path}")
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.fail(401, "Incorrect API key provided.", "invalid_api_key")
        elif api.busy:
            api.busy -= 1
            self.fail(429, "Rate limit reached.", "rate_limit_exceeded")
        elif self.path == "/v1/files":
            api.uploads.append(self.multipart(body))
            self.answer(api.file("uploaded"))
        elif self.path == "/v1/files/file-1":
            self.answer(api.file(after(api.file_states)))
        elif self.path == "/v1/fine_tuning/jobs":
            self.create_job(json.loads(body))
        elif self.path == f"/v1/fine_tuning/jobs/{JOB}":
            self.answer(api.job(after(api.job_states)))
        elif self.path == "/v1/chat/completions":
            self.chat(json.loads(body))
        else:
            self.fail(404, "No such thing.", "not_found")

    def multipart(self, body):
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + body).get_payload()
        named = {part.get_param("name", header="content-disposition"): part for part in parts}
        return {
            "purpose": named["purpose"].get_payload(),
            "filename": named["file"].get_filename(),
            "content": named["file"].get_payload(decode=True),
        }

    def create_job(self, job):
        if job["model"] != MODEL:
            return self.fail(400, f"Model {job['model']} is not available.", "model_not_available")
        self.server.jobs.append(job)
        return self.answer(self.server.job("validating_files"))

    def chat(self, asked):
        self.server.chats.append(asked)
        message = {"role": "assistant", "content": f"It is {asked['model']}."}
        if "tools" in asked:
            call = {"name": "weather", "arguments": '{"city": "Oslo"}'}
            message["content"] = None
            message["tool_calls"] = [{"id": "call-1", "type": "function", "function": call}]
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.answer(
            {
                "id": "chat-1",
                "object": "chat.completion",
                "created": 3,
                "model": asked["model"],
                "choices": [choice],
            }
        )

    def fail(self, status, message, code):
        self.answer({"error": {"message": message, "type": "x", "code": code}}, status)

    def answer(self, data, status=200):
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def api(monkeypatch):
    """A running server, which the environment names."""
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def write(path, examples):
    """Write a file of examples; text is written as it is."""
    lines = [one if isinstance(one, str) else json.dumps(one) for one in examples]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


@pytest.fixture
def chats(tmp_path):
    """A file of ten plain examples."""
    return write(tmp_path / "chats.jsonl", [PLAIN] * 10)


def engine_of(path, **kwargs):
    """Make an engine that asks again at once."""
    return OpenAIFinetuneEngine(MODEL, str(path), poll_seconds=0, **kwargs)


# --- the engine -------------------------------------------------------------------------------


def test_from_a_file_to_an_llm_that_answers(api, chats):
    """The file arrives whole, the job names it, and the finetuned model answers from the server."""
    api.file_states = ["uploaded", "uploaded", "processed"]
    api.job_states = ["queued", "running", "succeeded"]
    engine = engine_of(chats)
    engine.finetune()
    assert api.uploads == [
        {"purpose": "fine-tune", "filename": "chats.jsonl", "content": chats.read_bytes()}
    ]
    assert api.requests.count("GET /v1/files/file-1") == 3
    assert api.jobs == [{"model": MODEL, "training_file": "file-1"}]
    assert engine.get_current_job().status == "queued"
    with pytest.raises(FinetuningJobError, match=f"'{JOB}' has no model yet.*'running'"):
        engine.get_finetuned_model()
    llm = engine.get_finetuned_model(temperature=0.5)
    assert isinstance(llm, LLM)
    assert llm.chat([ChatMessage(content="Who are you?")]).message.content == f"It is {TUNED}."
    assert api.chats[0]["temperature"] == 0.5
    assert llm.metadata.context_window == 128000


def test_another_service_can_be_named_for_the_model(api, chats):
    """An `api_base` of the caller is not overridden."""
    api.job_states = ["succeeded"]
    llm = engine_of(chats, start_job_id=JOB).get_finetuned_model(api_base="http://other/v1")
    assert llm.api_base == "http://other/v1"


def test_a_failed_job_says_why(api, chats):
    """The error holds the API's own words; it is both a RuntimeError and a ValueError."""
    api.job_states = ["failed"]
    api.job_error = {"code": "invalid_training_file", "message": "Line 3 is odd.", "param": None}
    engine = engine_of(chats)
    engine.finetune()
    with pytest.raises(
        FinetuningJobError, match=r"'failed': Line 3 is odd\. \(code 'invalid_training_file'\)"
    ) as caught:
        engine.get_finetuned_model()
    assert isinstance(caught.value, TrainingError)
    assert isinstance(caught.value, ValueError)


def test_a_cancelled_job_has_no_model(api, chats):
    """Where the API gives no reason the error says that."""
    api.job_states = ["cancelled"]
    with pytest.raises(FinetuningJobError, match="'cancelled': no reason was given"):
        engine_of(chats, start_job_id=JOB).get_finetuned_model()


@pytest.mark.parametrize(("state", "named"), [("running", {"running"}), ("succeeded", set())])
def test_a_model_is_handed_back_when_it_is_named_and_done(api, chats, state, named):
    """Neither a name alone nor the state alone is enough."""
    api.job_states, api.named_in = [state], named
    with pytest.raises(FinetuningJobError, match=f"no model yet; it has the status '{state}'"):
        engine_of(chats, start_job_id=JOB).get_finetuned_model()


def test_without_a_job_there_is_nothing_to_ask_for(api, chats):
    """Both questions fail before the service is asked."""
    engine = engine_of(chats)
    for ask in (engine.get_current_job, engine.get_finetuned_model):
        with pytest.raises(FinetuningJobError, match="no fine-tuning job yet"):
            ask()
    assert api.requests == []


def test_an_earlier_job_is_taken_up(api, chats):
    """With `start_job_id` the model is fetched without an upload."""
    api.job_states = ["succeeded"]
    engine = engine_of(chats, start_job_id=JOB)
    assert engine.get_finetuned_model().model == TUNED
    assert api.uploads == []
    with pytest.raises(openai.NotFoundError):
        engine_of(chats, start_job_id="ftjob-2")


def test_bad_data_is_not_uploaded(api, tmp_path):
    """A refused file reaches no server; with the check off it does."""
    path = write(tmp_path / "bad.jsonl", [PLAIN] * 10 + ["{"])
    with pytest.raises(DatasetFileError, match="line 11: no JSON"):
        engine_of(path).finetune()
    assert api.requests == []
    engine_of(path, validate_json=False).finetune()
    assert len(api.uploads) == 1


@pytest.mark.parametrize("details", ["Line 1 is no chat.", None])
def test_a_file_that_the_service_refuses(api, chats, details):
    """The reason is passed on, and no job is started."""
    api.file_states, api.file_details = ["uploaded", "error"], details
    with pytest.raises(TrainingError, match=details or "no reason was given"):
        engine_of(chats).finetune()
    assert api.jobs == []


def test_waiting_for_the_file_has_an_end(api, chats):
    """After `max_wait_seconds` it gives up, and says what to do."""
    api.file_states = ["uploaded"]
    with pytest.raises(TrainingError, match="not processed within 0 seconds.*'max_wait_seconds'"):
        engine_of(chats, max_wait_seconds=0).finetune()
    assert api.jobs == []
    assert api.requests.count("GET /v1/files/file-1") == 2


def test_the_wait_between_two_questions(api, chats, monkeypatch):
    """`poll_seconds` is what the client waits before it asks for the file again."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    api.file_states = ["uploaded", "uploaded", "processed"]
    OpenAIFinetuneEngine(MODEL, chats, poll_seconds=7).finetune()
    assert waits == [7, 7]


@pytest.mark.parametrize("name", ["poll_seconds", "max_wait_seconds"])
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_times_are_checked(api, chats, name, seconds):
    """A time that is no number from 0 is refused."""
    with pytest.raises(ConfigurationError, match=f"'{name}' must be a number from 0"):
        OpenAIFinetuneEngine(MODEL, chats, **{name: seconds})


def test_a_busy_service_is_asked_again(api, chats):
    """Two refusals for the rate are overcome by the client; a third is passed on."""
    api.busy = 2
    engine_of(chats).finetune()
    assert len(api.jobs) == 1
    api.busy = 3
    with pytest.raises(openai.RateLimitError, match="Rate limit reached"):
        engine_of(chats).finetune()


def test_errors_of_the_api_are_passed_on(api, chats, monkeypatch):
    """A model that can't be finetuned, a wrong key and no key fail in the client's own words."""
    with pytest.raises(openai.BadRequestError, match="gpt-9 is not available"):
        OpenAIFinetuneEngine("gpt-9", chats).finetune()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        engine_of(chats).finetune()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        engine_of(chats)


def test_the_key_is_nowhere(api, chats, tmp_path, caplog):
    """Neither a log at any level, nor a file, nor the engine's own fields hold the key."""
    caplog.set_level(logging.DEBUG)
    api.job_states = ["failed"]
    engine = engine_of(chats, verbose=True)
    engine.finetune()
    with pytest.raises(FinetuningJobError) as caught:
        engine.get_finetuned_model()
    assert len(caplog.records) > 3
    assert KEY not in caplog.text
    assert KEY not in str(caught.value)
    assert KEY not in str(vars(engine))
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_says_the_steps(api, chats, caplog, verbose):
    """The steps are logged at INFO if verbose, and at DEBUG if not."""
    caplog.set_level(logging.DEBUG, logger="llama_index.finetuning.openai.base")
    engine_of(chats, verbose=verbose).finetune()
    said = [record for record in caplog.records if record.name.endswith("openai.base")]
    assert [record.getMessage().split()[0] for record in said] == [
        "Checked:",
        "Uploaded",
        "Started",
    ]
    assert "(counted with o200k_base)" in said[0].getMessage()
    assert {record.levelno for record in said} == {logging.INFO if verbose else logging.DEBUG}


@pytest.mark.parametrize("module", ["openai", "llama_index.llms.openai"])
def test_without_the_extra_the_error_names_it(chats, monkeypatch, module):
    """A missing client is an ImportError with the exact command."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"embeddings\[openai\]'"):
        engine_of(chats)


# --- recording --------------------------------------------------------------------------------


class Loud(CustomLLM):
    """Says the last word of the prompt loudly; its chats run through its own completion."""

    @property
    def metadata(self):
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        if "fail" in prompt:
            raise RuntimeError("no answer")
        return CompletionResponse(text=f"{prompt.split()[0].upper()}!")

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        text = f"{prompt.split()[0].upper()}!"

        def parts():
            for end in range(1, len(text) + 1):
                yield CompletionResponse(text=text[:end], delta=text[end - 1])

        return parts()


def recorded(llm_class=Loud, **kwargs):
    """Return a handler and an LLM that it listens to."""
    handler = OpenAIFineTuningHandler()
    llm = llm_class(callback_manager=CallbackManager([handler]), **kwargs)
    return handler, llm


def lines_of(handler, path):
    """Save and read back."""
    handler.save_finetuning_events(path)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_completions_are_recorded(tmp_path):
    """A prompt is a user's message, a completion the answer; the old shape of events is kept."""
    handler, llm = recorded()
    llm.complete("hé there")
    list(llm.stream_complete("you"))
    events = list(handler.get_finetuning_events().values())
    assert [event["response"].content for event in events] == ["HÉ!", "YOU!"]
    assert events[0]["messages"][0].content == "hé there"
    assert lines_of(handler, tmp_path / "new" / "chats.jsonl") == [
        {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": answer},
            ]
        }
        for prompt, answer in (("hé there", "HÉ!"), ("you", "YOU!"))
    ]


def test_a_chat_that_runs_through_a_completion_is_one_chat():
    """Whether asked at once, streamed or awaited, one call is one event: the outer one."""
    asked = [ChatMessage(role="user", content="hi")]

    async def awaited(llm):
        await asyncio.gather(llm.achat(asked), llm.achat(asked))
        return [one async for one in await llm.astream_chat(asked)]

    handler, llm = recorded()
    llm.chat(asked)
    list(llm.stream_chat(asked))
    asyncio.run(awaited(llm))
    events = handler.get_finetuning_events().values()
    assert len(events) == 5
    assert all(event["messages"] == asked for event in events)
    assert len(asked) == 1  # the caller's list is left alone


def test_calls_of_other_threads_are_not_taken_for_inner_ones():
    """Equal answers in eight threads are eight chats."""
    handler, llm = recorded()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: llm.chat([ChatMessage(content="hi")]), range(8)))
    assert len(handler.get_finetuning_events()) == 8


def test_a_call_within_another_with_another_answer_is_kept():
    """While a streamed chat is read, another call is a chat of its own."""
    handler, llm = recorded()
    stream = llm.stream_chat([ChatMessage(content="outer")])
    next(stream)
    llm.complete("inner")
    list(stream)
    answers = [event["response"].content for event in handler.get_finetuning_events().values()]
    assert answers == ["INNER!", "USER:!"]


def test_two_handlers_hear_the_same():
    """Handlers that share a manager do not take each other's events for outer ones."""
    handlers = [OpenAIFineTuningHandler(), OpenAIFineTuningHandler()]
    llm = Loud(callback_manager=CallbackManager(handlers))
    llm.chat([ChatMessage(content="hi")])
    assert [len(handler.get_finetuning_events()) for handler in handlers] == [1, 1]


def test_calls_without_an_answer_are_left_out():
    """A failed call, and one still under way, are no training data."""
    handler, llm = recorded()
    with pytest.raises(RuntimeError, match="no answer"):
        llm.complete("fail")
    stream = llm.stream_complete("later")
    next(stream)
    assert handler.get_finetuning_events() == {}
    list(stream)
    assert len(handler.get_finetuning_events()) == 1


def test_other_events_are_none_of_ours():
    """Events of other types, without a payload, or never begun are passed over."""
    handler = OpenAIFineTuningHandler()
    handler.start_trace("a")
    handler.on_event_start(CBEventType.RETRIEVE, {EventPayload.PROMPT: "x"}, event_id="1")
    handler.on_event_end(CBEventType.RETRIEVE, {EventPayload.RESPONSE: "y"}, event_id="1")
    assert handler.on_event_start(CBEventType.LLM, event_id="2") == "2"
    handler.on_event_end(CBEventType.LLM, {EventPayload.RESPONSE: "y"}, event_id="2")
    handler.on_event_start(CBEventType.LLM, {EventPayload.PROMPT: "x"}, event_id="3")
    handler.on_event_end(CBEventType.LLM, event_id="3")
    handler.end_trace("a")
    assert handler.get_finetuning_events() == {}


def test_a_response_may_be_a_plain_text():
    """As some integrations end their events; a handler can be copied with what it holds."""
    handler = OpenAIFineTuningHandler()
    handler.on_event_start(CBEventType.LLM, {EventPayload.PROMPT: "x"}, event_id="1")
    handler.on_event_end(CBEventType.LLM, {EventPayload.RESPONSE: "y"}, event_id="1")
    for one in (handler, copy.deepcopy(handler)):
        assert one.get_finetuning_events()["1"]["response"].content == "y"


def test_calls_of_functions_are_recorded_with_their_tools(api, tmp_path):
    """A chat of the genuine OpenAI LLM keeps the tools and the call, and passes the check."""
    handler, llm = recorded(llm_module.OpenAI, model=MODEL, api_base=api.url, api_key=KEY)

    def weather(city: str) -> str:
        """Tell the weather."""
        return city

    llm.chat_with_tools([FunctionTool.from_defaults(weather)], "How is it in Oslo?")
    llm.chat([ChatMessage(role="system", content="Be brief."), ChatMessage(content="Hm?")])
    called, plain = lines_of(handler, tmp_path / "chats.jsonl")
    assert called["tools"][0]["function"]["name"] == "weather"
    assert called["messages"][-1] == {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call-1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
            }
        ],
    }
    assert plain == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hm?"},
            {"role": "assistant", "content": f"It is {MODEL}."},
        ]
    }
    for line in (called, plain):
        assert read_example(json.dumps(line)) == line


def test_functions_of_the_old_api_are_recorded(tmp_path):
    """The older `functions` and `function_call` are kept under their own names."""
    handler = OpenAIFineTuningHandler()
    functions = [{"name": "weather", "parameters": {}}]
    call = {"name": "weather", "arguments": "{}"}
    handler.on_event_start(
        CBEventType.LLM,
        {
            EventPayload.MESSAGES: [ChatMessage(content="Hm?")],
            EventPayload.ADDITIONAL_KWARGS: {"functions": functions, "tools": None},
        },
        event_id="1",
    )
    answer = ChatMessage(role="assistant", additional_kwargs={"function_call": call})
    handler.on_event_end(
        CBEventType.LLM, {EventPayload.RESPONSE: ChatResponse(message=answer)}, event_id="1"
    )
    (line,) = lines_of(handler, tmp_path / "chats.jsonl")
    assert line["functions"] == functions
    assert "tools" not in line
    assert line["messages"][-1]["function_call"] == call
    assert read_example(json.dumps(line)) == line


def test_objects_of_the_client_are_written_plainly(tmp_path):
    """A tool call that is the client's object becomes JSON; what can't be is an error."""
    from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

    call = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    handler = OpenAIFineTuningHandler()
    for event_id, calls in (("1", [ChoiceDeltaToolCall(index=0, **call)]), ("2", [object()])):
        path = tmp_path / f"{event_id}.jsonl"
        answer = ChatMessage(role="assistant", additional_kwargs={"tool_calls": calls})
        handler.on_event_start(CBEventType.LLM, {EventPayload.PROMPT: "x"}, event_id=event_id)
        payload = {EventPayload.RESPONSE: ChatResponse(message=answer)}
        handler.on_event_end(CBEventType.LLM, payload, event_id=event_id)
        if event_id == "1":
            assert lines_of(handler, path)[0]["messages"][-1]["tool_calls"] == [call]
        else:
            with pytest.raises(TypeError, match="object is not JSON"):
                handler.save_finetuning_events(path)
            assert not path.exists()


def test_the_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    """When writing fails, what stood there stays, and no temporary file is left."""
    handler, llm = recorded()
    llm.complete("hi")
    path = write(tmp_path / "chats.jsonl", ["old"])
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OutputError, match="No space"):
        handler.save_finetuning_events(path)
    assert [one.name for one in tmp_path.iterdir()] == ["chats.jsonl"]
    assert path.read_text() == "old\n"


def test_nothing_recorded_writes_nothing(tmp_path):
    """An empty file would replace a good one; the error says how chats are recorded."""
    with pytest.raises(DatasetError, match="CallbackManager"):
        OpenAIFineTuningHandler().save_finetuning_events(tmp_path / "chats.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_one_model_learns_from_another(api, tmp_path):
    """Recorded chats are written, checked and uploaded as they were recorded."""
    handler, llm = recorded()
    for word in "abcdefghij":
        llm.complete(word)
    path = tmp_path / "chats.jsonl"
    engine = OpenAIFinetuneEngine.from_finetuning_handler(handler, MODEL, path, poll_seconds=0)
    engine.finetune()
    sent = [
        json.loads(line)["messages"][-1]["content"] for line in path.read_text("utf-8").splitlines()
    ]
    assert sent == [f"{word}!" for word in "ABCDEFGHIJ"]
    assert api.uploads[0]["content"] == path.read_bytes()


# --- the check --------------------------------------------------------------------------------


def chat(*messages, **more):
    """Make an example."""
    return {"messages": list(messages), **more}


USER = {"role": "user", "content": "hi"}
YES = {"role": "assistant", "content": "yes"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "example",
    [
        chat(USER, YES),
        chat({"role": "developer", "content": "Be brief."}, USER, YES | {"weight": 0}, USER, YES),
        chat(USER | {"name": "ann"}, {"role": "assistant", "tool_calls": [CALL]}, tools=None),
        chat(
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "content": ""},
            YES,
            tools=[{"type": "function", "function": {"name": "f"}}],
            parallel_tool_calls=False,
        ),
        chat(
            USER,
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "42"},
            YES,
            functions=[{"name": "f"}],
        ),
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, YES),
        chat(USER, {"role": "assistant", "refusal": "I can't."}),
    ],
)
def test_good_examples(example):
    """Everything that the API documents passes, and comes back as it was."""
    assert read_example(json.dumps(example)) == example


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "the line is blank"),
        ("{", "no JSON (Expecting property name"),
        ('{"messages": NaN}', "no JSON (NaN is no JSON number)"),
        ("[" * 100_000, "no JSON (maximum recursion depth"),
        ("1" * 5000, "no JSON ("),
        ("[]", "no JSON object"),
        ({"prompt": "a", "completion": "b"}, "there are no 'messages'"),
        ({"messages": {}}, "'messages' must be a list"),
        (chat("hi", YES), "message 1 is no object"),
        (chat({"role": "bot", "content": "hi"}, YES), "the 'role' of message 1 must be in"),
        (chat({"role": [], "content": "hi"}, YES), "the 'role' of message 1 must be in"),
        (chat(USER | {"text": "x"}, YES), "message 1 has unknown keys ('text')"),
        (chat(USER | {"weight": 1}, YES), "the 'weight' of message 1 must be 0 or 1"),
        (chat(USER, YES | {"weight": 2}), "the 'weight' of message 2 must be 0 or 1"),
        (chat({"role": "user"}, YES), "message 1 needs 'content'"),
        (chat({"role": "user", "content": ""}, YES), "message 1 needs 'content'"),
        (chat({"role": "user", "content": 1}, YES), "message 1 needs 'content'"),
        (chat({"role": "user", "content": []}, YES), "the 'content' of message 1 must be text"),
        (chat({"role": "user", "content": ["a"]}, YES), "the 'content' of message 1 must be"),
        (chat(USER, {"role": "assistant", "content": ""}), "message 2 needs 'content', or a call"),
        (chat(USER, {"role": "assistant", "content": 1}), "message 2 needs 'content'"),
        (chat({"role": "tool", "content": "42"}, YES), "message 1 needs a 'tool_call_id'"),
        (chat({"role": "function", "content": "42"}, YES), "needs the 'name' of its function"),
        (chat(USER, YES | {"tool_calls": {}}), "'tool_calls' must be a list"),
        (chat(USER, YES | {"tool_calls": [1]}), "tool call 1 of message 2 must be an object"),
        (chat(USER, YES | {"tool_calls": [{**CALL, "id": ""}]}), "of message 2 needs an 'id'"),
        (
            chat(USER, YES | {"tool_calls": [{**CALL, "function": {"name": "f"}}]}),
            "tool call 1 of message 2 needs 'arguments' as JSON",
        ),
        (chat(USER, YES | {"function_call": {}}), "'function_call' of message 2 needs a 'name'"),
        (chat(USER), "the last message must be the assistant's"),
        (chat(YES, USER), "the last message must be the assistant's"),
        (chat(USER, YES, tools=[{"name": "f"}]), "'tools' number 1 must be an object"),
        (chat(USER, YES, functions=[{}]), "'functions' number 1 needs a 'name'"),
    ],
)
def test_bad_examples(line, problem):
    """Each thing that the API refuses is found and named."""
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_example(text)


def test_every_bad_line_is_counted_and_the_first_five_shown(tmp_path):
    """Seven bad lines of ten: the count is whole, the list is cut, and no text is repeated."""
    bad = chat({"role": "user", "content": "my secret", "odd": 1}, YES)
    path = write(tmp_path / "a.jsonl", [PLAIN, bad, PLAIN, bad, bad, PLAIN, bad, bad, bad, "{"])
    with pytest.raises(DatasetFileError) as caught:
        validate_json(path)
    message = str(caught.value)
    assert message.startswith("7 of the 10 lines of ")
    for number in (2, 4, 5, 7, 8):
        assert f"line {number}: message 1 has unknown keys ('odd')" in message
    assert "line 9" not in message
    assert "; and 2 more)" in message
    assert "secret" not in message


def test_too_few_examples(tmp_path):
    """Fewer than the API's ten are refused, an empty file too; ten pass."""
    for count in (0, 9):
        with pytest.raises(DatasetFileError, match=rf"at least 10 examples.*\(got {count}\)"):
            validate_json(write(tmp_path / "a.jsonl", [PLAIN] * count))
    assert validate_json(write(tmp_path / "a.jsonl", [PLAIN] * 10)).examples == 10


def test_files_that_cant_be_read(tmp_path):
    """A missing file, a folder, and one that is no UTF-8 are named."""
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DatasetFileError, match="can't be read"):
            validate_json(path)
    (tmp_path / "latin.jsonl").write_bytes('{"é'.encode("latin-1"))
    with pytest.raises(DatasetFileError, match="not UTF-8"):
        validate_json(tmp_path / "latin.jsonl")


def test_a_mark_at_the_start_and_odd_separators_are_no_problem(tmp_path):
    """A byte order mark is skipped, and U+2028 within a text ends no line."""
    line = json.dumps(chat({"role": "user", "content": "a\u2028b\x85c"}, YES), ensure_ascii=False)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n".encode() * 10)
    assert validate_json(path).examples == 10


def test_tokens_and_costs_add_up(tmp_path):
    """3 to open the answer, and per message 3, one of the role and one of the word: 13 each."""
    longer = chat({"role": "user", "content": "hi hi hi"}, YES)
    path = write(tmp_path / "a.jsonl", [PLAIN] * 9 + [longer])
    report = validate_json(path, model=MODEL, price_per_million_tokens=25)
    assert report.tokens_per_epoch == 9 * 13 + 15
    assert report.longest_example == 15
    assert report.encoding == "o200k_base"
    assert report.cost_per_epoch == 132 * 25 / 1e6
    assert str(report) == (
        "10 examples, about 132 tokens per epoch (counted with o200k_base), the longest about 15. "
        "That is about 0.0033 per epoch at the price given; the service chooses the number of "
        "epochs."
    )


def test_what_is_not_known_is_said(tmp_path):
    """No price, an unknown model and images are told and not guessed."""
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}
    path = write(tmp_path / "a.jsonl", [chat(picture, YES)] * 10)
    report = validate_json(path, model="some-other-model")
    assert report.cost_per_epoch is None
    assert report.images == 10
    assert report.tokens_per_epoch == 10 * (3 + 4 + 5)
    for part in ("may not be the model's own", "10 images or other parts", "price list"):
        assert part in str(report)


@pytest.mark.parametrize("price", [-1, float("nan"), float("inf")])
def test_prices_are_checked(chats, price):
    """A price that is no number from 0 is refused."""
    with pytest.raises(ConfigurationError, match="'price_per_million_tokens' must be a number"):
        validate_json(chats, price_per_million_tokens=price)


@pytest.mark.parametrize(
    ("model", "encoding", "own"),
    [
        (MODEL, "o200k_base", True),
        (TUNED, "o200k_base", True),
        ("gpt-3.5-turbo-1106", "cl100k_base", True),
        ("text-davinci-003", "o200k_base", False),
        ("mine", "o200k_base", False),
        (None, "o200k_base", False),
    ],
)
def test_the_encoding_follows_the_model(model, encoding, own, monkeypatch):
    """Encodings come from llama-index-core's files, whatever the environment names."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "/nowhere")
    counter = TokenCounter(model)
    assert (counter.encoding, counter.is_the_models) == (encoding, own)
    assert os.environ["TIKTOKEN_CACHE_DIR"] == "/nowhere"


def test_what_is_counted():
    """Names, calls and tools count; marks in a text are text."""
    counter = TokenCounter(MODEL)
    plain = counter.count(chat(USER, YES)).tokens
    assert counter.count(chat(USER | {"name": "ann"}, YES)).tokens == plain + 1 + len_of("ann")
    called = chat(USER, YES | {"tool_calls": [CALL]}, tools=[{"type": "function"}])
    assert counter.count(called).tokens == plain + sum(
        len_of(json.dumps(one)) for one in ([CALL], [{"type": "function"}])
    )
    marked = counter.count(chat({"role": "user", "content": "<|endoftext|>"}, YES)).tokens
    assert marked > plain + 1


def len_of(text):
    """Count the tokens of a text."""
    import tiktoken

    return len(tiktoken.get_encoding("o200k_base").encode(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "tools", "x"]), inner)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(JSON.map(json.dumps), st.text(), st.just(json.dumps(PLAIN)))))
def test_any_file_is_counted_or_refused(tmp_path, lines):
    """Whatever a file holds, the outcome is a report or our error."""
    path = tmp_path / "any.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        report = validate_json(path)
    except DatasetFileError:
        return
    assert report.examples >= 10


# --- the front door ---------------------------------------------------------------------------


def test_old_import_paths():
    """The retired package's paths lead to the same objects."""
    from llama_index.finetuning import callbacks, types
    from llama_index.finetuning.callbacks.finetuning_handler import BaseFinetuningHandler
    from llama_index.finetuning.openai import OpenAIFinetuneEngine as packaged
    from llama_index.finetuning.openai.base import OpenAIFinetuneEngine as based

    assert based is packaged is door.OpenAIFinetuneEngine
    assert callbacks.OpenAIFineTuningHandler is door.OpenAIFineTuningHandler
    assert issubclass(door.OpenAIFineTuningHandler, BaseFinetuningHandler)
    assert issubclass(based, types.BaseLLMFinetuneEngine)
    assert {"OpenAIFinetuneEngine", "OpenAIFineTuningHandler"} <= set(dir(door))
    assert door.__all__ == sorted(door.__all__)


def test_old_signatures():
    """The retired parameters come first, in their order and with their defaults."""
    ours = inspect.signature(OpenAIFinetuneEngine).parameters.values()
    assert [(one.name, one.default) for one in ours if one.kind is not one.KEYWORD_ONLY] == [
        ("base_model", inspect.Parameter.empty),
        ("data_path", inspect.Parameter.empty),
        ("verbose", False),
        ("start_job_id", None),
        ("validate_json", True),
    ]
    of_handler = inspect.signature(OpenAIFinetuneEngine.from_finetuning_handler).parameters
    assert list(of_handler) == ["finetuning_handler", "base_model", "data_path", "kwargs"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GradientFinetuneEngine", "has closed.*SentenceTransformersFinetuneEngine"),
        ("AzureOpenAIFinetuneEngine", "`openai`"),
        ("MistralAIFinetuneEngine", "`mistralai`"),
        ("CohereRerankerFinetuneEngine", "`cohere`"),
        ("generate_cohere_reranker_finetuning_dataset", "`cohere`"),
    ],
)
def test_names_that_are_not_carried(name, advice):
    """They are ImportErrors that say where to go."""
    with pytest.raises(ImportError, match=f"'{name}'.*{advice}"):
        getattr(door, name)


@pytest.mark.parametrize("name", ["MistralAIFineTuningHandler", "GradientAIFineTuningHandler"])
def test_handlers_that_are_not_carried(name):
    """They point to the handler that is; a name that never was is an AttributeError."""
    from llama_index.finetuning import callbacks
    from llama_index.finetuning.callbacks import finetuning_handler

    for module in (callbacks, finetuning_handler):
        with pytest.raises(ImportError, match=f"'{name}'.*OpenAIFineTuningHandler"):
            getattr(module, name)
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            _ = module.Nothing


def test_the_names_can_be_imported_without_the_client():
    """Importing everything from the door loads no `openai`, so it needs no extra."""
    code = (
        "import sys\n"
        "sys.modules['openai'] = None\n"
        "from llama_index.finetuning import OpenAIFinetuneEngine, OpenAIFineTuningHandler\n"
        "import llama_index.finetuning.openai.validate_json\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'llama_index.llms.openai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
