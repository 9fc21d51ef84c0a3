"""Keys, and texts that nobody asked for, stay out of messages, logs and files."""

import logging
import traceback

import pytest
from fakes import HashEmbedding, tiny_dataset
from llama_index.core.bridge.pydantic import SecretStr
from test_faults import LLM, NODES, PEOPLE, generate

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    EncodingError,
    GenerationError,
)
from llama_index.finetuning.embeddings.encoding import encode, patience
from llama_index.finetuning.embeddings.manifest import describe_run, write_manifest
from llama_index.finetuning.embeddings.redaction import is_secret_name, redacted, safe_message

KEY = "sk-proj-4f9d8c7b6a5e"
PLAIN_KEY = "0123456789abcdef0123456789abcdef"  # a shape that no pattern knows


def everywhere(folder, caplog):
    """Return all that was logged and all that lies in a folder, in one text."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return caplog.text + b"\n".join(files).decode("utf-8", "replace")


@pytest.mark.parametrize("on_failure", ["continue", "fail"])
def test_generation_with_a_talkative_llm(tmp_path, caplog, on_failure):
    """An error that quotes key and text leaves neither in logs, files, reports or messages."""
    caplog.set_level(logging.DEBUG)
    error = RuntimeError(f"401 for {PLAIN_KEY} and {KEY}: could not answer {PEOPLE[1]!r}")
    llm = LLM(acts={PEOPLE[1]: error}, api_key=PLAIN_KEY)
    reports = []
    messages = []
    try:
        generate(llm, tmp_path, on_failure=on_failure, on_finish=reports.append, retry_limit=2)
    except GenerationError as raised:
        messages.append(str(raised))
    messages += [str(report.errors) for report in reports]
    assert "RuntimeError: 401 for <hidden> and <hidden>: could not answer" in messages[0]
    found = everywhere(tmp_path, caplog) + messages[0]
    assert KEY not in found
    assert PLAIN_KEY not in found
    assert PEOPLE[1] not in caplog.text + messages[0]
    assert NODES[1].node_id in caplog.text


@pytest.mark.parametrize("lasting", [False, True])
def test_encoding_with_a_talkative_model(tmp_path, caplog, monkeypatch, lasting):
    """The same holds for the base embedding: its retries, its failure and its cache."""

    class Talkative(HashEmbedding):
        api_key: str = PLAIN_KEY
        failures: int = 3 if lasting else 1

        def _get_text_embeddings(self, texts):
            self.failures -= 1
            if self.failures >= 0:
                raise RuntimeError(f"Bearer {KEY} and {self.api_key} may not embed {texts[0]}")
            return super()._get_text_embeddings(texts)

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(patience, "_RETRY_WAITS", (0.0, 0.0))
    message, text = "", "a secret sentence"
    try:
        encode(Talkative(), [text], "text", cache_dir=tmp_path)
    except EncodingError:
        message = traceback.format_exc()
    assert bool(message) is lasting
    found = everywhere(tmp_path, caplog) + message
    assert "Bearer <hidden> and <hidden> may not embed <text>" in found
    assert KEY not in found
    assert PLAIN_KEY not in found
    assert text not in found


def test_a_finetuned_adapter_over_a_base_with_a_key(tmp_path, caplog):
    """Neither folder nor cache nor log of a run holds the key of the base, or a document."""

    class Keyed(HashEmbedding):
        api_key: str = PLAIN_KEY

    caplog.set_level(logging.DEBUG)
    dataset = tiny_dataset(4, 2)
    engine = EmbeddingAdapterFinetuneEngine(
        dataset,
        Keyed(),
        model_output_path=str(tmp_path / "model"),
        cache_dir=str(tmp_path / "cache"),
        device="cpu",
    )
    engine.finetune()
    assert (tmp_path / "model" / "finetuning.json").is_file()
    found = everywhere(tmp_path, caplog)
    assert PLAIN_KEY not in found
    assert not any(text in found for text in dataset.corpus.values())


def test_the_record_of_a_run(tmp_path):
    """Parameters with a key's name or shape are hidden, prompts and others are as they were."""
    record = describe_run(
        engine="Engine",
        parameters={
            "model_kwargs": {"token": "hf_abc", "max_tokens": 5, "revision": None},
            "hub_token": PLAIN_KEY,
            "url": f"https://me:{PLAIN_KEY}@host/v1",
            "lr": 0.1,
        },
        seed=1,
        dataset=tiny_dataset(2, 1),
        val_dataset=None,
        seconds={},
        metrics={},
        prompts={"query": "Find the password: x ", "text": None},
    )
    write_manifest(tmp_path, record)
    assert PLAIN_KEY not in (tmp_path / "finetuning.json").read_text()
    assert record["parameters"] == {
        "model_kwargs": {"token": "<hidden>", "max_tokens": 5, "revision": None},
        "hub_token": "<hidden>",
        "url": "https://<hidden>@host/v1",
        "lr": 0.1,
    }
    assert record["prompts"] == {"query": "Find the password: x ", "text": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Incorrect API key provided: {PLAIN_KEY}.", "Incorrect API key provided: <hidden>"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer <hidden>'}"),
        ("api_key=abc&model=m", "api_key=<hidden>&model=m"),
        ('{"password": "abc"}', '{"password": "<hidden>"}'),
        (f"key {KEY}!", "key <hidden>!"),
        ("hf_abcdefghijklmnopqrst", "<hidden>"),
        ("https://user:pass@host/x", "https://<hidden>@host/x"),
        ("BAAI/bge-small-en-v1.5 at https://host/x?y=1", None),
        ("scikit-learn, sk-learn and the token limit of 512", None),
        ("sentence-transformers/all-MiniLM-L6-v2", None),
    ],
)
def test_what_looks_like_a_key(text, expected):
    """Keys, bearers and passwords are hidden; names of models and plain sentences are not."""
    assert redacted(text) == (text if expected is None else expected)


@pytest.mark.parametrize(
    "name",
    ["api_key", "apiKey", "hub_token", "token", "client_secret", "openai_key", "service_token"],
)
def test_names_of_secrets(name):
    """Names of keys are known; those of tokens of a text, or of keys of a mapping, are not."""
    assert is_secret_name(name)
    others = ("max_tokens", "pad_token", "text_key", "last_token", "task_key", "key", "model_name")
    assert not any(map(is_secret_name, others))


def test_keys_of_wrapped_models_headers_and_secret_strings():
    """Values are found in what a model wraps, in its headers, and behind pydantic's SecretStr."""

    class Inner(HashEmbedding):
        headers: dict = {"X-Api-Key": "inner-value"}  # noqa: RUF012
        api_key: SecretStr = SecretStr("other-value")

    class Outer(HashEmbedding):
        inner: Inner
        kind: type = Inner  # as the output class of a structured LLM

    class Router(HashEmbedding):
        models: list

    error = ValueError("inner-value, other-value, two\nlines, " + "long " * 200)
    message = safe_message(error, owner=Outer(inner=Inner()), texts=["two\nlines"])
    assert message.startswith("ValueError: <hidden>, <hidden>, <text>, long")
    assert len(message) == 504
    routed = safe_message(ValueError("inner-value"), owner=Router(models=[Inner()]))
    assert routed == "ValueError: <hidden>"
    assert safe_message(ValueError("x"), owner=Inner) == "ValueError: x"
    assert safe_message(ValueError("x"), owner=None) == "ValueError: x"


@pytest.mark.parametrize("text", ["All the basic knowledge of pumps", "See http://me@host now"])
def test_texts_with_a_word_like_a_key_are_hidden_whole(text):
    """The text is taken out before the word in it is."""
    message = safe_message(RuntimeError(f"can't embed {text!r}"), owner=None, texts=[text])
    assert message == "RuntimeError: can't embed '<text>'"
