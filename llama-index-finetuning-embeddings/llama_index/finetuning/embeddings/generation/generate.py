"""The functions that generate questions with an LLM."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import BaseNode

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.files import output_lock
from llama_index.finetuning.embeddings.generation.calls import run_blocking
from llama_index.finetuning.embeddings.generation.filters import DEFAULT_FILTERS, QuestionFilter
from llama_index.finetuning.embeddings.generation.options import Options
from llama_index.finetuning.embeddings.generation.prompts import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    build_templates,
)
from llama_index.finetuning.embeddings.generation.results import GenerationReport
from llama_index.finetuning.embeddings.generation.runner import Run


async def agenerate_qa_embedding_pairs(
    nodes: Sequence[BaseNode],
    llm: LLM,
    qa_generate_prompt_tmpl: (
        str | PromptTemplate | Sequence[str | PromptTemplate]
    ) = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    retry_limit: int = 3,
    on_failure: str = "continue",
    save_every: int = 500,
    output_path: str | os.PathLike[str] = "qa_finetune_dataset.json",
    verbose: bool = True,
    *,
    num_workers: int = 8,
    retry_wait: float = 1.0,
    language: str | None = None,
    style: str | None = None,
    filters: Sequence[QuestionFilter] = DEFAULT_FILTERS,
    answers_path: str | os.PathLike[str] | None = None,
    sample_size: int | None = None,
    seed: int = 42,
    on_finish: Callable[[GenerationReport], None] | None = None,
) -> EmbeddingQAFinetuneDataset:
    """Generate questions from nodes; ``generate_qa_embedding_pairs`` without blocking.

    Takes, returns and raises what ``generate_qa_embedding_pairs`` does.
    """
    _check_paths(output_path, answers_path)
    _check_on_finish(on_finish)
    options = Options(
        templates=build_templates(
            qa_generate_prompt_tmpl,
            style=style,
            language=language,
            answers=answers_path is not None,
        ),
        num_questions=num_questions_per_chunk,
        retry_limit=retry_limit,
        on_failure=on_failure,
        save_every=save_every,
        output_path=Path(output_path),
        verbose=verbose,
        num_workers=num_workers,
        retry_wait=retry_wait,
        filters=filters,
        answers_path=None if answers_path is None else Path(answers_path),
        sample_size=sample_size,
        seed=seed,
    )
    run = Run(nodes, llm, options)
    # A task stays in its thread, to which the lock belongs.
    with output_lock(options.output_path, name="output_path", folder=False):
        dataset, report = await run.run()
    if on_finish is not None:
        on_finish(report)
    return dataset


def generate_qa_embedding_pairs(
    nodes: Sequence[BaseNode],
    llm: LLM,
    qa_generate_prompt_tmpl: (
        str | PromptTemplate | Sequence[str | PromptTemplate]
    ) = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    retry_limit: int = 3,
    on_failure: str = "continue",
    save_every: int = 500,
    output_path: str | os.PathLike[str] = "qa_finetune_dataset.json",
    verbose: bool = True,
    *,
    num_workers: int = 8,
    retry_wait: float = 1.0,
    language: str | None = None,
    style: str | None = None,
    filters: Sequence[QuestionFilter] = DEFAULT_FILTERS,
    answers_path: str | os.PathLike[str] | None = None,
    sample_size: int | None = None,
    seed: int = 42,
    on_finish: Callable[[GenerationReport], None] | None = None,
) -> EmbeddingQAFinetuneDataset:
    """Let an LLM write questions for each node, and return them with the nodes as a dataset.

    Every answer goes into a journal, ``<output_path>.journal.jsonl``, as soon as it comes. A run
    that was killed, or a later one over more nodes, asks only what the journal does not hold for
    the same text, prompt and model; an answer given for a node of the same id goes first, but ids
    that are new in every run, as a splitter gives them, cost nothing. A node without a usable
    question is asked about again in the next run. The dataset is made from the answers for the
    nodes given, whatever else the journal or an older dataset at ``output_path`` holds; the
    questions of such an older file, also of the retired package, are kept for nodes whose text is
    the same, where the journal has no answer about that text. What the new dataset does not hold
    of it stays in a file beside it (``<name>.bak.json``). To start over, delete the dataset and
    the journal.

    Works in scripts and below a running event loop (notebooks) alike.

    Args:
        nodes: The nodes. Their text without metadata is the document; nodes without a text are
            skipped. All others are in the corpus, also those that got no question.
        llm: Any LlamaIndex LLM, asked through its async API, or in threads if it has none.
        qa_generate_prompt_tmpl: A template with ``{context_str}`` and, if wanted,
            ``{num_questions_per_chunk}``. Of several templates each node gets one, by chance.
        num_questions_per_chunk: Questions wanted for each node; what an answer has beyond is cut.
        retry_limit: How often a node is asked about at most. Errors that say the request itself
            is wrong (HTTP status 400, 422, ...) are not retried; those that say how long to wait,
            or that there were too many requests, do not count.
        on_failure: ``"continue"`` leaves a node without questions when all attempts failed, and a
            later call asks again; ``"fail"`` stops the run. A service that would refuse every
            request (a wrong key, a used-up quota, a told wait of more than five minutes, five
            minutes of nothing but waits, or many nodes failed before the first answer) stops it
            in any case.
        save_every: The dataset is written after this many newly answered nodes, and at the end.
        output_path: The dataset's JSON file.
        verbose: Show a progress bar, and log every failed attempt as a warning.
        num_workers: Calls in flight at a time, in threads where the LLM has no async API. Give 1
            for a local model that does not bear several threads (llama.cpp).
        retry_wait: Seconds before the first retry, doubled for each further one. A rate-limit
            error holds back all workers, for as long as it says where it says so.
        language: The language to write in; by default the prompt leaves it to the LLM.
        style: ``"exam"``, ``"search-query"`` or ``"keyword"`` instead of a template; to mix
            them, give several values of ``QA_PROMPTS`` as templates.
        filters: Functions of a question and its text; a question for which one returns True is
            dropped and counted. By default those that copy the text or speak of "the context".
        answers_path: Ask for an answer with each question, and write them to this JSON file, from
            query id to answer.
        sample_size: Ask about this many nodes, drawn by ``seed``; the corpus holds all.
        seed: Decides the sample, which template a node gets, and the spread of retries.
        on_finish: Called with the ``GenerationReport`` before the function returns, in the
            caller's thread.

    Raises:
        ConfigurationError: An argument can't be used.
        DatasetFileError: At ``output_path`` is a file that is no dataset.
        GenerationError: No node got a question, one failed and ``on_failure`` is ``"fail"``, or
            the service refuses every request. The journal keeps what came.
        OutputError: A file can't be written, or another run is writing ``output_path`` now.
    """
    _check_on_finish(on_finish)
    reports: list[GenerationReport] = []
    dataset = run_blocking(
        agenerate_qa_embedding_pairs(
            nodes,
            llm,
            qa_generate_prompt_tmpl,
            num_questions_per_chunk,
            retry_limit,
            on_failure,
            save_every,
            output_path,
            verbose,
            num_workers=num_workers,
            retry_wait=retry_wait,
            language=language,
            style=style,
            filters=filters,
            answers_path=answers_path,
            sample_size=sample_size,
            seed=seed,
            on_finish=reports.append,
        )
    )
    # Here and not on the shared loop, where a callback that generates would wait for itself.
    if on_finish is not None:
        on_finish(reports[0])
    return dataset


def _check_paths(output_path: Any, answers_path: Any) -> None:
    for name, path in (("output_path", output_path), ("answers_path", answers_path)):
        if not isinstance(path, str | os.PathLike) and (path is not None or name == "output_path"):
            raise ConfigurationError(f"{name!r} must be the path of a file (got {path!r}).")


def _check_on_finish(on_finish: Any) -> None:
    if on_finish is not None and not callable(on_finish):
        raise ConfigurationError(
            f"'on_finish' must be a function of a GenerationReport (got {on_finish!r})."
        )
