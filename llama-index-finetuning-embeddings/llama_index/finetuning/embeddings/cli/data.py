"""Commands that make and look at datasets: ``generate``, ``describe`` and ``split``."""

import dataclasses
import os
from typing import Annotated, Any, Literal

import typer

from llama_index.finetuning.embeddings.cli.output import AsJson, show, work

Dataset = Annotated[str, typer.Argument(metavar="DATA", help="JSON file, or BEIR folder[:split].")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]


def generate(
    documents: Annotated[
        str, typer.Argument(metavar="DOCUMENTS", help="A file, or a folder of files.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The dataset's JSON file.")
    ],
    llm: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER:MODEL", help="LLM, such as openai:gpt-4o-mini."),
    ] = None,
    pseudo: Annotated[
        bool, typer.Option("--pseudo", help="No LLM: titles or first sentences as queries.")
    ] = False,
    api_base: Annotated[
        str | None, typer.Option(metavar="URL", help="API address, e.g. of openai-like:MODEL.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(metavar="N", help="Questions for each chunk. [default: 2]")
    ] = None,
    chunk_size: Annotated[int, typer.Option(metavar="N", help="Tokens of a chunk.")] = 512,
    chunk_overlap: Annotated[
        int, typer.Option(metavar="N", help="Tokens that two chunks share.")
    ] = 0,
    style: Annotated[
        str | None, typer.Option(metavar="STYLE", help="exam, search-query or keyword.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="NAME", help="The language of the questions.")
    ] = None,
    sample_size: Annotated[
        int | None, typer.Option(metavar="N", help="Ask about so many chunks only.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Calls of the LLM at a time. [default: 8]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of all randomness. [default: 42]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a dataset of documents, with or without an LLM.

    Questions come from an LLM (--llm), or are parts of the texts themselves (--pseudo). A run that
    was broken off goes on when it is started again, without paying twice. Keys are read from the
    environment; that of openai-like is OPENAI_LIKE_API_KEY.
    """
    if (llm is None) != pseudo:
        raise typer.BadParameter("give one of the two.", param_hint="'--llm' / '--pseudo'")
    for_llm = {
        "--api-base": api_base,
        "--questions": questions,
        "--style": style,
        "--language": language,
        "--sample-size": sample_size,
        "--workers": workers,
        "--seed": seed,
    }
    for option, value in for_llm.items():
        if pseudo and value is not None:
            raise typer.BadParameter(
                "it is for an LLM; leave it out with --pseudo.", param_hint=f"'{option}'"
            )
    with work():
        from llama_index.finetuning.embeddings import (
            GenerationReport,
            generate_qa_embedding_pairs,
            pseudo_query_pairs,
        )
        from llama_index.finetuning.embeddings.cli.documents import read_nodes, resolve_llm

        model = None if llm is None else resolve_llm(llm, api_base=api_base)
        nodes = read_nodes(
            documents, chunk_size=chunk_size, chunk_overlap=chunk_overlap, output=output
        )
        reports: list[GenerationReport] = []
        if model is None:
            dataset = pseudo_query_pairs(nodes)
            dataset.save_json(output)
        else:
            dataset = generate_qa_embedding_pairs(
                nodes,
                model,
                num_questions_per_chunk=2 if questions is None else questions,
                output_path=output,
                num_workers=8 if workers is None else workers,
                language=language,
                style=style,
                sample_size=sample_size,
                seed=42 if seed is None else seed,
                on_finish=reports.append,
            )
    data = {
        **_sizes(output, dataset),
        "report": dataclasses.asdict(reports[0]) if reports else None,
    }
    text = "\n".join([_in_words(output, dataset), *map(str, reports)])
    show(text, data, as_json=as_json)


def describe(
    dataset: Dataset,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Count this model's tokens, and what it would cut."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count what a dataset holds: sizes, repeats and lengths."""
    with work():
        from llama_index.finetuning.embeddings.cli import inputs

        data = inputs.read_dataset(dataset)
        tokenizer = None
        if model is not None:
            from llama_index.finetuning.embeddings.sentence_transformer.loading import (
                load_sentence_transformer,
            )

            tokenizer = load_sentence_transformer(model, trust_remote_code=False, device="cpu")
        found = data.describe(tokenizer)
    show(str(found), dataclasses.asdict(found), as_json=as_json)


def split(
    dataset: Dataset,
    train: Annotated[str, typer.Option(metavar="FILE", help="JSON file of the part to train on.")],
    test: Annotated[str, typer.Option(metavar="FILE", help="JSON file of the other part.")],
    test_size: Annotated[
        float, typer.Option(metavar="SIZE", help="Share of the queries, or their number.")
    ] = 0.2,
    by: Annotated[
        Literal["document", "query"],
        typer.Option(metavar="WHAT", help="query, or document: none is in both."),
    ] = "document",
    test_corpus: Annotated[
        Literal["unseen", "all"],
        typer.Option(metavar="WHICH", help="unseen, or all of the documents."),
    ] = "unseen",
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Divide a dataset into two parts, to train and to test."""
    if os.path.realpath(train) == os.path.realpath(test):
        raise typer.BadParameter("each part needs its own file.", param_hint="'--train' / '--test'")
    with work():
        from llama_index.finetuning.embeddings.cli.inputs import read_dataset
        from llama_index.finetuning.embeddings.files import check_writable

        for name, path in (("--train", train), ("--test", test)):
            check_writable(path, name=name, folder=False)
        size = int(test_size) if test_size.is_integer() else test_size
        parts = read_dataset(dataset).train_test_split(
            size, by=by, test_corpus=test_corpus, seed=seed
        )
        # What replaces the whole comes last: until then it is still there.
        source = os.path.realpath(dataset)
        for part, path in sorted(
            zip(parts, (train, test), strict=True),
            key=lambda written: os.path.realpath(written[1]) == source,
        ):
            part.save_json(path)
    text = f"{_in_words(train, parts[0])}\n{_in_words(test, parts[1])}"
    data = {"train": _sizes(train, parts[0]), "test": _sizes(test, parts[1])}
    show(text, data, as_json=as_json)


def _in_words(path: str, dataset: Any) -> str:
    return f"{path}: {len(dataset.queries):,} queries, {len(dataset.corpus):,} documents"


def _sizes(path: str, dataset: Any) -> dict[str, Any]:
    return {"path": path, "queries": len(dataset.queries), "documents": len(dataset.corpus)}
