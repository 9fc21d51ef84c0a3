"""Tests of the command line: in this process where they can be, else in one that users start."""

import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes import tiny_dataset

from llama_index.finetuning import embeddings
from llama_index.finetuning.embeddings import (
    EmbeddingQAFinetuneDataset,
    OutputError,
    RetrievalReport,
)
from llama_index.finetuning.embeddings.cli import main

MODULE = [sys.executable, "-m", "llama_index.finetuning.embeddings.cli"]
DISTRIBUTION = "llama-index-finetuning-embeddings"
SCRIPT = Path(sys.executable).with_name("llama-index-finetune")
COMMANDS = ("generate", "describe", "split", "adapter", "full", "evaluate", "merge")

# An integration as LlamaIndex's packages are: the class named like the module, beside others.
INTEGRATION = """
from llama_index.core.llms import CustomLLM, CompletionResponse, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

class Other(CustomLLM):
    model: str = "other"

    @property
    def metadata(self):
        return LLMMetadata(model_name=self.model)

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        {before}
        first = prompt.split("topic ")[1].split()[0]
        lines = [f"{{i}}. What is said of topic {{first}}, part {{i}}?" for i in range(1, 6)]
        return CompletionResponse(text="\\n".join(lines))

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError

class {name}(Other):
    api_base: str = ""

__all__ = {exported}
"""


class Outcome(NamedTuple):
    """What a run of the program left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the program in this process, with a folder of its own to work in."""
    monkeypatch.chdir(tmp_path)

    def run_program(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        message = exit_.value.code
        if isinstance(message, str):  # the interpreter prints it and exits with 1
            return Outcome(1, out, err + message + "\n")
        return Outcome(message or 0, out, err)

    yield run_program
    for name in ("llama_index.finetuning", "llama_index.core.readers.file.base"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def documents(tmp_path):
    """A folder with four texts, one of them in a folder below."""
    folder = tmp_path / "docs"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(["a.md", "b.md", "below/c.txt", "d.md"]):
        (folder / name).write_text(f"# All about topic {i}\n\nPress key {i} twice. Then wait.\n")
    return folder


@pytest.fixture
def data(tmp_path):
    """A dataset's file."""
    path = tmp_path / "data.json"
    tiny_dataset().save_json(path)
    return path


@pytest.fixture
def integration(tmp_path, monkeypatch):
    """Install a module of `llama_index.llms` for one test."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def install(module, *, name, exported, before="pass"):
        folder = tmp_path / "site" / "llama_index" / "llms" / module
        folder.mkdir(parents=True)
        source = INTEGRATION.format(name=name, exported=exported, before=before)
        (folder / "__init__.py").write_text(source)
        importlib.invalidate_caches()
        return f"llama_index.llms.{module}"

    yield install
    for name in [one for one in sys.modules if one.startswith("llama_index.llms")]:
        monkeypatch.delitem(sys.modules, name)


def started(command, **variables):
    """Run a command as a process of its own."""
    done = subprocess.run(
        [str(one) for one in command],
        env={**os.environ, **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


# --- The program ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((one,) for one in COMMANDS)])
def test_help_fits_a_screen(run, command):
    """Every help has at most 35 lines of at most 80 columns, and says what each option is for."""
    outcome = run(*command, "--help")
    lines = outcome.out.splitlines()
    assert outcome.code == 0
    assert len(lines) <= 35
    assert max(map(len, lines)) <= 80
    assert run(*command, "-h").out == outcome.out


def test_help_names_every_command(run):
    """The program's help lists the seven commands, each with a sentence that is not cut off."""
    listed = run("--help").out.split("Commands:")[1].split("Example:")[0].strip().splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_help_loads_nothing_heavy():
    """Neither torch nor LlamaIndex is loaded to show a command's help."""
    code = (
        "import sys\n"
        "from llama_index.finetuning.embeddings.cli import main\n"
        "try:\n    main(['full', '--help'])\n"
        "finally:\n    print(sorted({'torch', 'llama_index.core', 'numpy'} & set(sys.modules)))\n"
    )
    outcome = started([sys.executable, "-c", code])
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "[]"


def test_no_arguments_shows_the_help(run):
    """The bare program shows its help, and counts that as a mistake in its use."""
    outcome = run()
    assert outcome.code == 2
    assert "Commands:" in outcome.out + outcome.err


def test_the_installed_script():
    """The script that the package installs is the program."""
    outcome = started([SCRIPT, "--version"])
    assert outcome.code == 0
    assert outcome.out.startswith(f"{DISTRIBUTION} ")


def test_version_and_verbose(run, documents, caplog):
    """--version names the distribution; -v logs what the library does."""
    assert run("--version").out == f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}\n"
    run("generate", documents, "--pseudo", "-o", "a.json")
    assert "4 queries out of 4 texts" not in caplog.text
    run("-v", "generate", documents, "--pseudo", "-o", "a.json")
    assert "4 queries out of 4 texts" in caplog.text


def test_without_typer():
    """Without typer one line says how to install it, with exit code 1 and no traceback."""
    code = (
        "import sys\nsys.modules['typer'] = None\n"
        "from llama_index.finetuning.embeddings.cli import main\nmain(['--help'])\n"
    )
    outcome = started([sys.executable, "-c", code])
    assert outcome == Outcome(
        1,
        "",
        "Error: The command line needs 'typer', which is not installed. Install it with: "
        "pip install 'llama-index-finetuning-embeddings[cli]'\n",
    )


# --- generate ------------------------------------------------------------------------------


def test_generate_without_an_llm(run, documents):
    """Headings become queries; ids are paths below the folder, so that they say where and stay."""
    outcome = run("generate", documents, "--pseudo", "--output", "all.json")
    dataset = EmbeddingQAFinetuneDataset.from_json("all.json")
    assert outcome.out == "all.json: 4 queries, 4 documents\n"
    assert outcome.code == 0
    assert "Loading files" in outcome.err
    assert sorted(dataset.corpus) == ["a.md#1", "b.md#1", "below/c.txt#1", "d.md#1"]
    assert dict(dataset.query_docid_pairs) == {
        "All about topic 0": ["a.md#1"],
        "All about topic 1": ["b.md#1"],
        "All about topic 2": ["below/c.txt#1"],
        "All about topic 3": ["d.md#1"],
    }


def test_generate_of_one_file_as_json(run, documents):
    """A single file will do, and --json prints one object and nothing else."""
    outcome = run("generate", documents / "a.md", "--pseudo", "-o", "one.json", "--json")
    assert json.loads(outcome.out) == {
        "path": "one.json",
        "queries": 1,
        "documents": 1,
        "report": None,
    }


def test_generate_cuts_chunks(run, tmp_path, monkeypatch):
    """--chunk-size and --chunk-overlap decide how many chunks a file has and what they share."""
    import llama_index.core

    # llama-index-core 0.13 has the data, too, and would download it all the same.
    monkeypatch.setenv("NLTK_DATA", f"{Path(llama_index.core.__file__).parent}/_static/nltk_cache")
    text = " ".join(f"Sentence number {i} is here." for i in range(40))
    (tmp_path / "long.txt").write_text(text)

    def corpus(*options):
        run("generate", "long.txt", "--pseudo", "-o", "cut.json", "--chunk-size", 100, *options)
        return EmbeddingQAFinetuneDataset.from_json("cut.json").corpus

    apart, shared = corpus(), corpus("--chunk-overlap", 40)
    assert list(apart) == [f"long.txt#{i}" for i in range(1, len(apart) + 1)]
    assert 1 < len(apart) < len(shared)
    # Sentence 20 is in one chunk, or a query of it, without overlap.
    assert sum("number 20 " in text for text in apart.values()) <= 1


def test_generate_with_an_llm_goes_on(run, documents, integration):
    """Questions come from the integration that --llm names; a second run pays for nothing."""
    integration("parrot", name="Parrot", exported=["Other", "Parrot"])
    arguments = ("generate", documents, "--llm", "parrot:small", "-o", "all.json", "--json")
    first = json.loads(run(*arguments, "--questions", 3).out)
    assert (first["queries"], first["documents"]) == (12, 4)
    assert (first["report"]["made"], first["report"]["reused"]) == (4, 0)
    second = json.loads(run(*arguments, "--questions", 3).out)
    assert (second["queries"], second["report"]["reused"]) == (12, 4)


def test_generate_says_what_came_of_it(run, documents, integration):
    """The text form has the sizes and the counts of the run, and progress is elsewhere."""
    integration("parrot", name="Parrot", exported=["Parrot"])
    outcome = run("generate", documents, "--llm", "parrot:small", "-o", "all.json")
    assert outcome.out.splitlines()[0] == "all.json: 8 queries, 4 documents"
    assert outcome.out.splitlines()[1].startswith("8 questions for 4 of 4 nodes")
    assert "Generating questions" in outcome.err


def test_generate_hands_its_options_on(run, documents, integration, monkeypatch):
    """Each option reaches the function that it is for."""
    seen = {}

    def spy(nodes, llm, **options):
        seen.update(options, nodes=len(nodes), llm=(llm.model, llm.api_base))
        return tiny_dataset()

    monkeypatch.setattr(embeddings, "generate_qa_embedding_pairs", spy)
    integration("parrot", name="Parrot", exported=["Parrot"])
    options = "--questions 5 --style exam --language French --sample-size 2 --workers 3 --seed 7"
    outcome = run(
        *(
            "generate",
            documents,
            "-o",
            "x.json",
            "--llm",
            "parrot:a:b",
            "--api-base",
            "http://x/v1",
        ),
        *options.split(),
    )
    assert outcome.code == 0
    seen.pop("on_finish")
    assert seen == {
        "nodes": 4,
        "llm": ("a:b", "http://x/v1"),
        "num_questions_per_chunk": 5,
        "output_path": "x.json",
        "num_workers": 3,
        "language": "French",
        "style": "exam",
        "sample_size": 2,
        "seed": 7,
    }


@pytest.mark.parametrize(("key", "expected"), [("", "none"), ("local-1", "local-1")])
def test_generate_with_any_server(monkeypatch, integration, key, expected):
    """A server that speaks OpenAI's API is asked by chat, with a key of its own, never OpenAI's."""
    from llama_index.finetuning.embeddings.cli.documents import resolve_llm

    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_LIKE_API_KEY", key)
    integration("openai_like", name="OpenAILike", exported=["OpenAILike"], before="pass")
    module = importlib.import_module("llama_index.llms.openai_like")

    class OpenAILike(module.OpenAILike):
        is_chat_model: bool = False
        api_key: str = ""

    monkeypatch.setattr(module, "OpenAILike", OpenAILike)
    llm = resolve_llm("openai-like:qwen2.5:7b", api_base="http://localhost/v1")
    assert (llm.model, llm.api_base) == ("qwen2.5:7b", "http://localhost/v1")
    assert (llm.is_chat_model, llm.api_key) == (True, expected)


def test_generate_names_the_missing_integration(run, documents):
    """Without the integration the error has the pip install, and nothing was read or written."""
    outcome = run("generate", documents, "--llm", "no-such-llm:x", "-o", "all.json")
    assert outcome == Outcome(
        1,
        "",
        "Error: The LLM provider 'no_such_llm' needs 'llama_index.llms.no_such_llm', which is not "
        "installed. Install it with: pip install llama-index-llms-no-such-llm\n",
    )


@pytest.mark.parametrize(
    ("module", "exported", "spec", "message"),
    [
        (None, [], "gpt-4o-mini", "'--llm' must be 'provider:model'"),
        (None, [], "os;:x", "'--llm' must be 'provider:model'"),
        (
            "several",
            ["Other", "Parrot"],
            "several:x",
            "which LLM it is for (found ['Other', 'Parrot'])",
        ),
        ("empty", [], "empty:x", "which LLM it is for (found [])"),
        ("other", ["Other", "Parrot"], "other:x", "Other takes no 'api_base'"),
    ],
)
def test_generate_with_an_llm_that_cannot_be(
    run, documents, integration, module, exported, spec, message
):
    """Names in another form, or that do not lead to one class, are refused in one line."""
    if module is not None:
        integration(module, name="Parrot", exported=exported)
    outcome = run("generate", documents, "--llm", spec, "--api-base", "http://x", "-o", "a.json")
    assert outcome.code == 1
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Unknown model 'x'"), "ValueError: Unknown model 'x'"),
        (ConnectionError("Ollama does\nnot run"), "ConnectionError: Ollama does not run"),
        (RuntimeError("refused: sk-0123456789"), "RuntimeError: refused: <hidden>"),
    ],
)
@pytest.mark.parametrize("where", ["metadata", "__init__"])
def test_generate_with_an_integration_that_fails(
    run, documents, integration, monkeypatch, where, error, said
):
    """What it says of an unknown model, or of a server that is away, comes before any call."""
    name = integration("parrot", name="Parrot", exported=["Parrot"])
    module = importlib.import_module(name)

    def fail(self, **_):
        raise error

    failing = property(fail) if where == "metadata" else fail
    monkeypatch.setattr(module.Parrot, where, failing)
    outcome = run("generate", documents, "--llm", "parrot:x", "-o", "a.json")
    assert outcome == Outcome(1, "", f"Error: The LLM 'parrot:x' can't be used: {said}\n")


def test_generate_with_an_integration_that_lacks_its_client(run, documents, tmp_path, monkeypatch):
    """An integration without the package that it needs is named with that package."""
    folder = tmp_path / "site" / "llama_index" / "llms" / "half"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import no_such_client\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    outcome = run("generate", documents, "--llm", "half:x", "-o", "a.json")
    assert outcome.code == 1
    assert "llama_index.llms.half needs 'no_such_client'" in outcome.err


@pytest.mark.parametrize("choice", [(), ("--pseudo", "--llm", "openai:x")])
def test_generate_needs_one_source(run, documents, choice):
    """Neither an LLM nor --pseudo, or both, is a mistake in the use."""
    outcome = run("generate", documents, "-o", "a.json", *choice)
    assert outcome.code == 2
    assert "'--llm' / '--pseudo'" in outcome.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--api-base", "http://x"),
        ("--questions", 2),
        ("--style", "exam"),
        ("--language", "French"),
        ("--sample-size", 2),
        ("--workers", 8),
        ("--seed", 42),
    ],
)
def test_generate_refuses_what_only_an_llm_heeds(run, documents, option, value):
    """With --pseudo such an option, also with its default value, would do nothing."""
    outcome = run("generate", documents, "-o", "a.json", "--pseudo", option, value)
    assert outcome.code == 2
    assert f"'{option}'" in outcome.err
    assert "leave it out with --pseudo" in outcome.err
    assert not Path("a.json").exists()


def test_generate_keeps_its_defaults_for_an_llm(run, documents, integration, monkeypatch):
    """What is not given has the value that the help names."""
    seen = {}

    def spy(nodes, llm, **options):
        seen.update(options)
        return tiny_dataset()

    monkeypatch.setattr(embeddings, "generate_qa_embedding_pairs", spy)
    integration("cockatoo", name="Cockatoo", exported=["Cockatoo"])
    assert run("generate", documents, "-o", "x.json", "--llm", "cockatoo:a").code == 0
    assert (seen["num_questions_per_chunk"], seen["num_workers"], seen["seed"]) == (2, 8, 42)
    shown = run("generate", "--help").out
    assert shown.count("[default: 2]") == shown.count("[default: 8]") == 1


def test_generate_leaves_out_what_is_no_text(run, documents, caplog):
    """Files that would be read as rubbish are left out and named, with what would read them."""
    (documents / "paper.pdf").write_bytes(b"%PDF-1.7\nstream")
    (documents / "photo.bin").write_bytes(b"abc\0def")
    namesake = next(path for path in documents.iterdir() if path.suffix == ".md")
    (documents / "deeper").mkdir(exist_ok=True)
    (documents / "deeper" / namesake.name).write_text("a\0b", encoding="utf-16")
    outcome = run("generate", documents, "--pseudo", "-o", "all.json", "--json")
    assert json.loads(outcome.out)["documents"] == 4
    left_out = f"no text: 'deeper/{namesake.name}', 'paper.pdf', 'photo.bin'. PDF, Word"
    assert left_out in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="Other systems have no such names.")
def test_generate_names_files_that_are_no_utf_8(run, documents):
    """Their ids are readable, and the same in the next run."""
    shutil.copy(documents / "a.md", os.fsencode(documents) + b"/caf\xe9.md")
    assert run("generate", documents, "--pseudo", "-o", "all.json").code == 0
    assert "caf\\udce9.md#1" in EmbeddingQAFinetuneDataset.from_json("all.json").corpus


def test_generate_reads_utf_16_and_leaves_out_other_encodings(run, documents, caplog):
    """No letter of a text is dropped in silence: a file is read whole, or left out and named."""
    (documents / "windows.txt").write_text("# Gr\u00f6\u00dfe\n\n\u00dcber B\u00fccher.", "cp1252")
    (documents / "unicode.txt").write_text("# Gr\u00f6\u00dfe\n\n\u00dcber B\u00fccher.", "utf-16")
    (documents / "marked.txt").write_text("# Ma\u00dfe\n\n\u00dcber Hefte.", "utf-8-sig")
    run("generate", documents, "--pseudo", "-o", "all.json")
    texts = EmbeddingQAFinetuneDataset.from_json("all.json")
    assert {"Gr\u00f6\u00dfe", "Ma\u00dfe"} < set(texts.queries.values())
    assert {"\u00dcber B\u00fccher.", "\u00dcber Hefte."} < set(texts.corpus.values())
    assert len(texts.corpus) == 6
    assert "not UTF-8: 'windows.txt'. Convert" in caplog.text


def test_generate_into_the_folder_that_it_reads(run, documents):
    """The dataset, its journal and older ones are no documents of the next run."""
    output = documents / "all.json"
    for name in ("all.json.journal.jsonl", "all.bak.json", "all.bak2.json"):
        (documents / name).write_text("# Not this\n\nText.")
    for _ in range(2):
        outcome = run("generate", documents, "--pseudo", "-o", output, "--json")
        assert json.loads(outcome.out)["documents"] == 4


def test_generate_leaves_out_what_is_hidden_in_the_folder(run, documents, tmp_path):
    """And reads a folder that is itself in a hidden one."""
    (documents / ".git").mkdir()
    (documents / ".git" / "config.txt").write_text("# Not this\n\nText.")
    (documents / ".draft.md").write_text("# Nor this\n\nText.")
    hidden = tmp_path / ".hidden"
    hidden.mkdir()
    documents = documents.rename(hidden / "documents")
    outcome = run("generate", documents, "--pseudo", "-o", "all.json", "--json")
    assert json.loads(outcome.out)["documents"] == 4


def test_generate_of_files_that_are_no_text(run, tmp_path):
    """Where nothing is left, the error names the package that reads such files."""
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7\nstream")
    outcome = run("generate", "paper.pdf", "--pseudo", "-o", "all.json")
    assert outcome.code == 1
    assert "pip install llama-index-readers-file" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        ("nowhere", (), "'nowhere' can't be made into nodes"),
        ("empty", (), "'empty' can't be made into nodes"),
        ("docs", ("--chunk-overlap", 600), "larger chunk overlap (600)"),
    ],
)
def test_generate_of_documents_that_cannot_be_read(
    run, tmp_path, documents, place, options, message
):
    """A missing or empty folder and sizes that do not fit are one line on standard error."""
    (tmp_path / "empty").mkdir()
    outcome = run("generate", place, "--pseudo", "-o", "a.json", *options)
    assert outcome.code == 1
    assert message in outcome.err.splitlines()[-1]


def test_generate_with_a_reader_that_lacks_its_package(run, documents, monkeypatch):
    """A reader's own missing package is named, not traced."""
    import llama_index.core

    def fail(self, **options):
        raise ImportError("pypdf is required: `pip install pypdf`")

    monkeypatch.setattr(llama_index.core.SimpleDirectoryReader, "load_data", fail)
    outcome = run("generate", documents, "--pseudo", "-o", "a.json")
    assert outcome.code == 1
    assert "`pip install pypdf`" in outcome.err


def test_generate_without_the_data_to_cut(run, documents, monkeypatch):
    """Where the splitter's data can't be had, the error names the version that brings it."""
    from llama_index.core.node_parser import SentenceSplitter

    def fail(self, documents):
        raise LookupError("Resource punkt_tab not found.\n Attempted to load ...")

    monkeypatch.setattr(SentenceSplitter, "get_nodes_from_documents", fail)
    outcome = run("generate", documents, "--pseudo", "-o", "a.json")
    assert outcome.code == 1
    assert "pip install 'llama-index-core>=0.14'" in outcome.err


def test_generate_with_a_local_integration(run, integration, documents):
    """Integrations that call the model's name otherwise are made as well."""
    integration("macaw", name="Macaw", exported='["Macaw"]')
    source = Path("site/llama_index/llms/macaw/__init__.py")
    text = source.read_text()
    source.write_text(
        text.replace("model: str", "model_name: str").replace(".model", ".model_name")
    )
    outcome = run("generate", documents, "--llm", "macaw:small", "-o", "all.json", "--json")
    assert json.loads(outcome.out)["report"]["questions"] == 8


def test_a_local_integration_takes_the_models_own_tokenizer(run, integration, documents):
    """And not the one that the integration has by default."""
    integration(
        "toucan",
        name="Toucan",
        exported='["Toucan"]',
        before="assert self.tokenizer_name == 'small'",
    )
    source = Path("site/llama_index/llms/toucan/__init__.py")
    text = source.read_text().replace("model: str", "model_name: str")
    text = text.replace(".model)", ".model_name)").replace(
        'api_base: str = ""', 'tokenizer_name: str = "another"'
    )
    source.write_text(text)
    outcome = run("generate", documents, "--llm", "toucan:small", "-o", "all.json", "--json")
    assert json.loads(outcome.out)["report"]["questions"] == 8


# --- describe and split --------------------------------------------------------------------


def test_describe(run, data):
    """The text form is the description's own."""
    outcome = run("describe", data)
    assert outcome.code == 0
    assert outcome.out == f"{EmbeddingQAFinetuneDataset.from_json(data).describe()}\n"


def test_describe_with_a_model_as_json(run, data, tiny_bert_dir):
    """With a model, lengths are tokens and what it would cut is counted."""
    outcome = run("describe", data, "--model", tiny_bert_dir, "--json")
    found = json.loads(outcome.out)
    assert (found["queries"], found["documents"]) == (24, 12)
    assert (found["length_unit"], found["max_seq_length"]) == ("tokens", 32)
    # [CLS], a topic, eight words, [SEP]
    assert found["document_lengths"]["max"] == 11


def test_split(run, data):
    """The parts are written, with no document in both, and their sizes said."""
    outcome = run("split", data, "--train", "train.json", "--test", "test.json")
    train, test = (
        EmbeddingQAFinetuneDataset.from_json(f"{name}.json") for name in ("train", "test")
    )
    assert outcome == Outcome(
        0,
        f"train.json: {len(train.queries)} queries, {len(train.corpus)} documents\n"
        f"test.json: {len(test.queries)} queries, {len(test.corpus)} documents\n",
        "",
    )
    assert not set(train.corpus) & set(test.corpus)
    expected = EmbeddingQAFinetuneDataset.from_json(data).train_test_split(0.2)
    assert (train, test) == expected


@pytest.mark.parametrize("other", ["s.json", "./s.json", "link.json"])
def test_split_needs_two_files(run, data, other):
    """Both parts into one file, by whatever name, is a mistake in the use."""
    Path("link.json").symlink_to("s.json")
    outcome = run("split", data, "--train", "s.json", "--test", other)
    assert outcome.code == 2
    assert "'--train' / '--test'" in outcome.err
    assert not Path("s.json").exists()


def test_split_in_place_loses_nothing(run, data, tmp_path, monkeypatch):
    """A part that can't be written is found before the other one replaces the whole."""
    before = data.read_bytes()
    written = []

    def full(self, path):
        if written:
            raise OutputError("the disk is full")
        written.append(path)

    for parts in ((data, "b.json"), ("a.json", data)):
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddingQAFinetuneDataset, "save_json", full)
            assert run("split", data, "--train", parts[0], "--test", parts[1]).code == 1
        assert written == [one for one in parts if isinstance(one, str)]
    (tmp_path / "folder").mkdir()
    for other in ("folder", "data.json/x.json"):
        outcome = run("split", data, "--train", data, "--test", other)
        assert outcome.code == 1
        assert "'--test'" in outcome.err
        assert data.read_bytes() == before


def test_split_by_its_options(run, data):
    """A number of queries, --by, --test-corpus and --seed are those of train_test_split."""
    options = "--test-size 5 --by query --test-corpus all --seed 3 --json"
    outcome = run("split", data, "--train", "a.json", "--test", "b.json", *options.split())
    found = json.loads(outcome.out)
    assert found["test"] == {"path": "b.json", "queries": 5, "documents": 12}
    whole = EmbeddingQAFinetuneDataset.from_json(data)
    expected = whole.train_test_split(5, by="query", test_corpus="all", seed=3)
    parts = tuple(EmbeddingQAFinetuneDataset.from_json(name) for name in ("a.json", "b.json"))
    assert parts == expected


def test_beir_folders(run, data):
    """A BEIR folder stands for its dataset, and folder:split for one split of several."""
    whole = EmbeddingQAFinetuneDataset.from_json(data)
    whole.to_beir("beir", "dev")
    assert json.loads(run("describe", "beir", "--json").out)["queries"] == 24
    Path("beir/qrels/few.tsv").write_text("query-id\tcorpus-id\tscore\nq0-0\td0\t1\n")
    assert json.loads(run("describe", "beir:few", "--json").out)["queries"] == 1
    outcome = run("describe", "beir")
    assert outcome.code == 1
    assert "'split' must be in ('dev', 'few')" in outcome.err


@pytest.mark.parametrize("command", [("describe",), ("split", "--train", "a", "--test", "b")])
def test_a_dataset_that_is_not_there(run, command):
    """A missing file is one line on standard error and exit code 1."""
    outcome = run(command[0], "none.json", *command[1:])
    assert outcome == Outcome(1, "", "Error: There is no dataset file at 'none.json'.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("split", "data.json"),
        ("split", "data.json", "--train", "a", "--test", "b", "--by", "colour"),
        ("full", "--train", "data.json", "--output", "out"),
        ("full", "--train", "d", "--model", "m", "-o", "x", "--matryoshka-dims", "8,x"),
        ("full", "--train", "d", "--model", "m", "-o", "x", "--max-seq-length", "long"),
        ("evaluate", "m", "--data", "d", "--dims", "8,"),
        ("evaluate", "m", "--data", "d", "--dims", "8,0"),
        ("evaluate", "m", "--data", "d", "--seed", "-1"),
        ("merge", "out", "--base", "m"),
        ("no-such-command",),
    ],
)
def test_mistakes_in_use(run, arguments):
    """A missing option, an unknown choice and a value of another form exit with 2."""
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "Usage:" in outcome.err


def test_an_unknown_metric_is_told_before_a_model_is_loaded(run, data):
    """There is no model of that name, which would be told otherwise."""
    outcome = run("evaluate", "nowhere", "--data", data, "--metric", "ndcg")
    assert outcome.code == 1
    assert "'metric' must be in" in outcome.err


# --- full ----------------------------------------------------------------------------------


def test_full_does_what_the_code_does(tmp_path, data, tiny_model_dir, monkeypatch):
    """As a process of its own it writes the weights and prints the table of the README's code."""
    monkeypatch.chdir(tmp_path)
    train, val = EmbeddingQAFinetuneDataset.from_json(data).train_test_split(0.3)
    train.save_json("train.json")
    val.save_json("val.json")
    options = f"--train train.json --val val.json --model {tiny_model_dir} --output out/"
    outcome = started([*MODULE, "-v", "full", *options.split(), "--device", "cpu"])
    assert outcome.code == 0, outcome.err

    engine = embeddings.SentenceTransformersFinetuneEngine(
        train,
        model_id=str(tiny_model_dir),
        model_output_path="expected",
        val_dataset=val,
        device="cpu",
    )
    engine.finetune()
    assert outcome.out == f"{engine.report.to_markdown()}\nThe finetuned model is in 'out/'.\n"
    weights = sorted(Path("expected").rglob("*.safetensors"))
    assert weights
    for path in weights:
        assert (Path("out") / path.relative_to("expected")).read_bytes() == path.read_bytes()
    # The bar, and what -v asks for, are on standard error.
    assert "it/s" in outcome.err
    assert "INFO: On the validation set:" in outcome.err


class EngineSpy:
    """Stands in for an engine, and remembers what it was made with."""

    report = None
    summary = "As good as it gets."

    def __init__(self, *args, **options):
        EngineSpy.args, EngineSpy.options = args, options

    def finetune(self, **options):
        EngineSpy.finetuned = True


@pytest.fixture
def engine_spy(monkeypatch):
    """Replace both engines, so that only the way to them is tested."""
    monkeypatch.setattr(embeddings, "EmbeddingAdapterFinetuneEngine", EngineSpy)
    monkeypatch.setattr(embeddings, "SentenceTransformersFinetuneEngine", EngineSpy)
    monkeypatch.setattr(EngineSpy, "finetuned", False, raising=False)
    return EngineSpy


def test_full_hands_its_options_on(run, data, engine_spy):
    """Each option reaches the argument that it is for."""
    options = (
        "--epochs 3 --batch-size 4 --learning-rate 1e-4 --sides query --all-docs "
        "--max-seq-length 64 --matryoshka-dims 16,8 --precision fp32 --evaluation-steps 7 "
        "--checkpoints --checkpoint-steps 9 --resume --trust-remote-code --device cpu --seed 1 "
        "--query-prompt q: --text-prompt t: --patience 2"
    )
    outcome = run(
        "full", "--train", data, "--val", data, "--model", "m", "-o", "o", *options.split()
    )
    assert outcome.code == 0
    assert engine_spy.finetuned
    dataset = EmbeddingQAFinetuneDataset.from_json(data)
    assert engine_spy.args == (dataset,)
    assert engine_spy.options == {
        "model_id": "m",
        "model_output_path": "o",
        "batch_size": 4,
        "val_dataset": dataset,
        "epochs": 3,
        "evaluation_steps": 7,
        "use_all_docs": True,
        "trust_remote_code": True,
        "device": "cpu",
        "save_checkpoints": True,
        "resume_from_checkpoint": True,
        "checkpoint_save_steps": 9,
        "train": "query",
        "training_args": {"learning_rate": 1e-4},
        "matryoshka_dims": [16, 8],
        "query_prompt": "q:",
        "text_prompt": "t:",
        "max_seq_length": 64,
        "precision": "fp32",
        "early_stopping_patience": 2,
        "seed": 1,
    }


def test_full_has_the_defaults_of_the_engine(run, data, monkeypatch):
    """What is not given is what the engine's own constructor has, and fits its signature."""
    signature = inspect.signature(embeddings.SentenceTransformersFinetuneEngine.__init__)
    monkeypatch.setattr(embeddings, "SentenceTransformersFinetuneEngine", EngineSpy)
    run("full", "--train", data, "--model", "m", "--output", "o")
    given = dict(EngineSpy.options)
    assert (given.pop("model_id"), given.pop("model_output_path")) == ("m", "o")
    for name, value in given.items():
        assert value == signature.parameters[name].default, name


@pytest.mark.parametrize(("given", "expected"), [("auto", "auto"), ("model", None)])
def test_full_reads_lengths_in_words(run, data, engine_spy, given, expected):
    """--max-seq-length knows the engine's own choice and the model's own length."""
    options = ("--train", data, "--model", "m", "-o", "o", "--max-seq-length", given)
    outcome = run("full", *options, "--json")
    assert engine_spy.options["max_seq_length"] == expected
    said = {"output": "o", "summary": "As good as it gets.", "report": None}
    assert json.loads(outcome.out) == said


def test_full_of_a_model_that_is_none(run, data, tmp_path):
    """A folder without a model is one line, not a trace through the libraries."""
    (tmp_path / "no-model").mkdir()
    outcome = run("full", "--train", data, "--model", "no-model", "--output", "out")
    assert outcome.code == 1
    last = outcome.err.splitlines()[-1]
    assert last.startswith("Error: The model 'no-model' can't be loaded (")
    assert not Path("out").exists()


def test_full_says_what_is_wrong(run, data, tiny_model_dir):
    """The library's own errors arrive as they are, without what a model's loading would add."""
    options = ("--model", tiny_model_dir, "--output", "out", "--epochs", 0)
    outcome = run("full", "--train", data, *options)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == (
        "Error: 'epochs' must be an integer of at least 1 (got 0)."
    )


# --- adapter, evaluate, merge ---------------------------------------------------------------


def test_adapter_and_evaluate(run, data, tiny_bert_dir):
    """An adapter is trained over a model, and its folder is evaluated beside that model."""
    trained = run(
        *("adapter", "--train", data, "--val", data, "--model", tiny_bert_dir, "-o", "adapter"),
        *("--device", "cpu", "--json"),
    )
    found = json.loads(trained.out)
    assert trained.code == 0
    assert found["output"] == "adapter"
    assert list(found["report"]["comparison"]["systems"]) == ["base", "finetuned"]
    assert "Embedding queries" in trained.err
    assert "Training" in trained.err

    arguments = ("evaluate", "--data", data, tiny_bert_dir, "adapter", "--dims", "16,8")
    compared = run(*arguments, "--general", data, "--cache-dir", "cache", "--json")
    report = json.loads(compared.out)
    systems = report["comparison"]["systems"]
    assert list(systems) == [str(tiny_bert_dir), "adapter"]
    for name, twin in ((str(tiny_bert_dir), "base"), ("adapter", "finetuned")):
        expected = found["report"]["comparison"]["systems"][twin]["ndcg@10"]["value"]
        assert systems[name]["ndcg@10"]["value"] == pytest.approx(expected, abs=1e-6)
    assert [one["dim"] for one in report["dimensions"]] == [8, 16, 32]
    assert report["general"]["reference"] == str(tiny_bert_dir)
    assert any(Path("cache").iterdir())


def test_adapter_hands_its_options_on(run, data, tiny_bert_dir, engine_spy):
    """Each option reaches the argument that it is for, over a HuggingFaceEmbedding."""
    options = (
        "--epochs 3 --batch-size 4 --learning-rate 0.01 --negatives corpus --transform both "
        "--cache-dir cache --device cpu --seed 1"
    )
    model = ("--model", tiny_bert_dir, "-o", "o")
    outcome = run("adapter", "--train", data, "--val", data, *model, *options.split())
    assert outcome.code == 0
    assert outcome.out == (
        "As good as it gets. Without --val there is no table of before and after.\n\n"
        "The finetuned model is in 'o'.\n"
    )
    assert engine_spy.args[1].class_name() == "HuggingFaceEmbedding"
    assert engine_spy.options == {
        "model_output_path": "o",
        "device": "cpu",
        "val_dataset": EmbeddingQAFinetuneDataset.from_json(data),
        "negatives": "corpus",
        "transform": "both",
        "cache_dir": "cache",
        "seed": 1,
        "epochs": 3,
        "batch_size": 4,
        "lr": 0.01,
    }


def test_adapter_heeds_what_equals_the_engines_defaults(run, data, tiny_bert_dir):
    """One epoch in steps of ten is what is asked for, not a sign that nothing was."""
    options = ("--epochs", 1, "--batch-size", 10, "--device", "cpu")
    run("adapter", "--train", data, "--model", tiny_bert_dir, "-o", "o", *options)
    parameters = json.loads(Path("o/finetuning.json").read_text())["parameters"]
    assert (parameters["epochs"], parameters["batch_size"], parameters["auto"]) == (1, 10, False)


def test_adapter_leaves_the_choice_to_the_engine(run, data, tiny_bert_dir, engine_spy):
    """Epochs, batch size and learning rate are not passed unless they are given."""
    run("adapter", "--train", data, "--model", tiny_bert_dir, "-o", "o")
    assert not {"epochs", "batch_size", "lr"} & engine_spy.options.keys()


def test_evaluate_one_model_with_bm25_and_a_page(run, data, tiny_bert_dir):
    """BM25 and its fusion stand in the table, verdicts go by the metric, and the page is there."""
    options = ("--bm25", "--metric", "mrr@10", "--html", "report.html", "--seed", 5)
    outcome = run("evaluate", tiny_bert_dir, "--data", data, *options)
    assert outcome.code == 0
    assert "| bm25 |" in outcome.out
    assert f"| bm25 + {tiny_bert_dir} |" in outcome.out
    assert "MRR@10 difference" in outcome.out
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


def test_output_in_an_encoding_that_lacks_a_sign(data, tiny_bert_dir, tmp_path):
    """The table has a stand-in for it, JSON escapes it, and the page is there."""
    folder = tmp_path / "\u6a21\u578b"
    shutil.copytree(tiny_bert_dir, folder)
    program = [sys.executable, "-m", "llama_index.finetuning.embeddings.cli"]
    for options in ((), ("--json",)):
        page = tmp_path / "page.html"
        outcome = started(
            [*program, "evaluate", folder, "--data", data, "--html", page, *options],
            PYTHONIOENCODING="ascii",
        )
        assert outcome.code == 0
        assert "\u6a21\u578b" in page.read_text("utf-8")
        page.unlink()
    assert "\u6a21\u578b" in json.dumps(json.loads(outcome.out), ensure_ascii=False)


def test_evaluate_looks_at_the_page_first_and_prints_before_it(
    run, data, tiny_bert_dir, monkeypatch
):
    """A place that can't be written to costs nothing; where writing fails, the table is there."""
    Path("folder").mkdir()
    outcome = run("evaluate", "none", "--data", data, "--html", "folder")
    assert (outcome.code, outcome.out) == (1, "")
    assert "'--html' must be a file (got 'folder', which is a folder)" in outcome.err

    def full(*_, **__):
        raise OutputError("the disk is full")

    monkeypatch.setattr(RetrievalReport, "save_html", full)
    outcome = run("evaluate", tiny_bert_dir, "--data", data, "--html", "page.html")
    assert (outcome.code, "the disk is full" in outcome.err) == (1, True)
    assert "| System | nDCG@10 |" in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("none",), "The model 'none' can't be loaded"),
        ((".",), "'.' is no adapter folder"),
    ],
)
def test_evaluate_what_is_no_model(run, data, options, message):
    """Names and folders of no model are one line on standard error."""
    outcome = run("evaluate", *options, "--data", data)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err.splitlines()[-1]


def test_a_name_that_is_no_folder(monkeypatch):
    """Such a name is taken for one on the Hugging Face Hub."""
    from llama_index.embeddings import huggingface

    from llama_index.finetuning.embeddings.cli.inputs import load_model

    monkeypatch.setattr(huggingface, "HuggingFaceEmbedding", dict)
    name = "BAAI/bge-small-en-v1.5"
    assert load_model(name) == {"model_name": name, "device": None}
    assert load_model(name, "cuda") == {"model_name": name, "device": "cuda"}


def test_a_folder_is_loaded_where_it_is_to_run(tiny_bert_dir, tmp_path, monkeypatch):
    """The device that is asked for reaches a full model; an adapter's base chooses its own."""
    from llama_index.finetuning import embeddings
    from llama_index.finetuning.embeddings.cli.inputs import load_model

    monkeypatch.setattr(embeddings, "load_finetuned_model", lambda path, **settings: settings)
    assert load_model(str(tiny_bert_dir), "cuda") == {"device": "cuda"}
    assert load_model(str(tmp_path), "cuda") == {}


@pytest.mark.parametrize(
    ("options", "weight"),
    [((), 0.5), (("--weight", 0.3), 0.3), (("--val", "data.json"), None)],
)
def test_merge_hands_its_options_on(run, data, monkeypatch, options, weight):
    """The weight is what was given, one half, or left to the validation set."""
    seen = []

    def spy(finetuned, base, output, *, weight, val_dataset):
        seen.append((finetuned, base, output, weight, val_dataset))
        return "merged"

    monkeypatch.setattr(embeddings, "merge_with_base", spy)
    outcome = run("merge", "tuned", "--base", "b", "--output", "merged", *options)
    val = EmbeddingQAFinetuneDataset.from_json(data) if weight is None else None
    assert seen == [("tuned", "b", "merged", weight, val)]
    assert outcome.out == "The merged model is in 'merged'.\n"


def test_merge_as_json(run, monkeypatch):
    """--json prints where the model is."""
    monkeypatch.setattr(embeddings, "merge_with_base", lambda *_, **__: "m")
    outcome = run("merge", "tuned", "--base", "b", "--output", "m", "--json")
    assert json.loads(outcome.out) == {"output": "m"}


def test_merge_for_real(run, data, tiny_bert_dir):
    """What `full` wrote is merged: without any share of it, the weights are the base's."""
    from safetensors.numpy import load_file

    full = ("full", "--train", data, "--model", tiny_bert_dir, "-o", "tuned", "--device", "cpu")
    assert run(*full, "--learning-rate", 0.01).code == 0
    merge = ("merge", "tuned", "--base", tiny_bert_dir, "-o")
    assert run(*merge, "none", "--weight", 0).code == 0
    chosen = run(*merge, "chosen", "--val", data, "--json")
    told = json.loads(chosen.out)
    assert told.keys() == {"output", "weight", "ndcg@10"}
    assert told["output"] == "chosen"
    assert told["ndcg@10"][str(told["weight"])] == max(told["ndcg@10"].values())
    in_words = run(*merge, "chosen", "--val", data).out
    assert in_words.startswith(
        f"The merged model is in 'chosen'. {told['weight']:g} of it is the finetuned model (nDCG"
    )
    (base,) = (load_file(path) for path in tiny_bert_dir.rglob("*.safetensors"))
    (none,) = (load_file(path) for path in Path("none").rglob("*.safetensors"))
    (tuned,) = (load_file(path) for path in Path("tuned").rglob("*.safetensors"))
    assert all((none[name] == weights).all() for name, weights in base.items())
    assert any((tuned[name] != weights).any() for name, weights in base.items())
    both = run(*merge, "x", "--val", data, "--weight", 0.5)
    assert both.code == 1
    assert "'val_dataset' chooses the weight only if 'weight' is None" in both.err
