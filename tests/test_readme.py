"""The README's snippets run as they stand, with a tiny model in place of the Hub's."""

import re
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_dataset
from llama_index.core import Settings
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

README = Path(__file__).parents[1] / "README.md"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Teacher(CustomLLM):
    """Ask about the first words of the context."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        words = re.search(r"---\n(.*?)\n---", prompt, re.DOTALL).group(1).split()
        questions = [f"ask about {words[0]} {words[1]}?", f"ask about {words[2]} {words[3]}?"]
        return CompletionResponse(text="\n".join(f"{i}. {q}" for i, q in enumerate(questions, 1)))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_every_python_snippet_runs_in_order(tiny_bert_dir, tmp_path, monkeypatch):
    """A reader who copies the snippets from top to bottom meets no error.

    Only a folder of documents and an `llm` are theirs to bring; every other name is made by a
    snippet before.
    """
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    before = Settings._embed_model
    Path("docs").mkdir()
    for docid, text in tiny_dataset(20, 1).corpus.items():
        (Path("docs") / f"{docid}.txt").write_text(text)
    names = {"llm": Teacher()}
    text = README.read_text("utf-8")
    assert "`llm`" in text.partition("```python")[0]
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) >= 5
    try:
        for snippet in snippets:
            # The reader passes over files below a folder like ".nox", where tests may run.
            visible = snippet.replace('Reader("docs")', 'Reader("docs", exclude_hidden=False)')
            exec(visible.replace(MODEL, str(tiny_bert_dir)), names)
    finally:
        Settings._embed_model = before
    assert names["report"].comparison.estimates.keys() == {"base", "all weights", "adapter"}
    # What is called the base has not been trained by a snippet before.
    untouched = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    assert names["base"].get_query_embedding("amber") == pytest.approx(
        untouched.get_query_embedding("amber"), abs=1e-5
    )
    assert (tmp_path / "my_model" / "report.html").is_file()
    assert (tmp_path / "my_adapter" / "config.json").is_file()


def test_the_recipe_for_the_terminal_runs(tiny_bert_dir, tmp_path, monkeypatch):
    """Its commands run one after the other on a folder of documents, with the extras it names."""
    for extra in ("typer", "bm25s", "matplotlib"):
        pytest.importorskip(extra)
    from llama_index.finetuning.embeddings.cli import main

    recipe = README.read_text("utf-8").partition("## From the terminal")[2]
    install, *commands = (
        re.search(r"```bash\n(.*?)```", recipe, re.DOTALL)[1]
        .replace("\\\n", " ")
        .replace("--llm openai:gpt-4o-mini", "--pseudo")
        .replace(MODEL, str(tiny_bert_dir))
        .splitlines()
    )
    extras = re.search(r"\[(.*)\]", install)[1].split(",")
    assert {"bm25", "cli", "openai"} <= set(extras)
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for docid, text in tiny_dataset(20, 1).corpus.items():
        (Path("docs") / f"{docid}.md").write_text(f"# About {text[:30]}\n\n{text}\n")
    for command in commands:
        program, *arguments = command.split()
        assert program == "llama-index-finetune"
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert not exit_.value.code, command
    assert Path("report.html").is_file()


def test_links_within_the_readme_resolve():
    """Every link to a heading or a file of the repository leads somewhere."""
    text = README.read_text("utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (README.parent / target).exists()
