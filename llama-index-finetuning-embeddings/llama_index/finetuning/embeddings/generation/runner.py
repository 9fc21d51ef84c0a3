"""One run: what the journal holds, the calls for the rest, and the dataset."""

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence

from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import GenerationError
from llama_index.finetuning.embeddings.files import atomic_file
from llama_index.finetuning.embeddings.generation.calls import Calls
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal
from llama_index.finetuning.embeddings.generation.older import questions_of_file
from llama_index.finetuning.embeddings.generation.options import Options, model_name, texts_of
from llama_index.finetuning.embeddings.generation.results import (
    GenerationReport,
    Outcome,
    build_dataset,
    read_entry,
)
from llama_index.finetuning.embeddings.generation.retry import Pace
from llama_index.finetuning.embeddings.redaction import safe_message
from llama_index.finetuning.embeddings.service_errors import is_permanent

logger = logging.getLogger(__name__)


class Run:
    """Generates the questions of some nodes.

    Args:
        nodes: The nodes.
        llm: The LLM.
        options: The options.

    Raises:
        ConfigurationError: The nodes or the LLM can't be used.
    """

    def __init__(self, nodes: Sequence[BaseNode], llm: LLM, options: Options) -> None:
        self._llm = llm
        self._options = options
        self._model = model_name(llm)
        self._texts, self._empty = texts_of(nodes)
        asked = options.sample(list(self._texts))
        self._keys = {one: options.key_for(one, self._texts[one], self._model) for one in asked}
        self._outcomes: dict[str, Outcome] = {}
        self._errors: dict[str, Exception] = {}
        self._made = self._reused = 0
        self._stop = False

    async def run(self) -> tuple[EmbeddingQAFinetuneDataset, GenerationReport]:
        """Ask about every node that the journal has no answer for, and write the dataset.

        Raises:
            GenerationError: No node has a question, or one failed and ``on_failure`` is "fail".
            DatasetFileError: At the output path is a file that is no dataset.
            OutputError: A file can't be written.
        """
        options = self._options
        with Journal(options.journal_path) as journal:
            self._take_over(journal)
            missing = [one for one in self._keys if one not in self._outcomes]
            if missing:
                await self._ask_all(missing, journal)
        report = self.report()
        if self._stop:
            node_id, error = next(iter(self._errors.items()))
            raise GenerationError(
                f"Node {node_id!r} failed ({self._reason(error, node_id)}) and 'on_failure' is "
                f"'fail'. The {len(self._outcomes):,} answers that "
                f"came are in {str(options.journal_path)!r}: call again to go on with the rest."
            ) from error
        if not report.questions:
            raise self._nothing_came(report) from next(iter(self._errors.values()), None)
        dataset = build_dataset(self._texts, self._outcomes)
        dataset.save_json(options.output_path)
        if options.answers_path is not None:
            self._save_answers()
        logger.info("%s: %s", options.output_path, report)
        if report.failed:
            logger.warning("%d of %d nodes have no question.", report.failed, report.nodes)
        return dataset, report

    def report(self) -> GenerationReport:
        """Return the counts so far."""
        numbers = [len(outcome.questions) for outcome in self._outcomes.values()]
        filtered: Counter[str] = Counter()
        query_ids: set[str] = set()
        for outcome in self._outcomes.values():
            filtered += outcome.filtered
            query_ids.update(query_id for query_id, _, _ in outcome.questions)
        return GenerationReport(
            nodes=len(self._keys) + len(self._empty),
            made=self._made,
            failed=len(self._keys) - self._made,
            skipped=len(self._empty),
            reused=self._reused,
            fewer=sum(0 < number < self._options.num_questions for number in numbers),
            questions=len(query_ids),
            filtered=dict(filtered),
            errors={one: self._reason(error, one) for one, error in self._errors.items()},
        )

    def _take_over(self, journal: Journal) -> None:
        """Use the journal's answers, after the questions of an older file have joined them."""
        wanted = set(self._keys.values())
        entries, known = journal.read(wanted)
        adopted = strangers = 0
        for node_id, text, questions in questions_of_file(self._options.output_path, known):
            key = self._options.key_for(node_id, text, self._model)
            journal.add(key, Entry(questions=questions))
            adopted += key in wanted
            strangers += key not in wanted
            entries[key] = Entry(questions=questions)
        if adopted or strangers:
            logger.info(
                "%s held questions of %d of these nodes, which are kept, and of %d others, which "
                "are in the journal only.",
                self._options.output_path,
                adopted,
                strangers,
            )
        for node_id, key in self._keys.items():
            if key in entries:
                self._finish(node_id, entries[key])
        self._reused = len(self._outcomes)

    async def _ask_all(self, missing: list[str], journal: Journal) -> None:
        pace = Pace(self._options.retry_wait, seed=self._options.seed)
        queue = iter(missing)
        num_workers = min(self._options.num_workers, len(missing))
        with (
            Calls(self._llm, num_workers) as calls,
            tqdm(
                total=len(self._keys) + len(self._empty),
                initial=self._reused + len(self._empty),
                desc="Generating questions",
                unit="node",
                disable=not self._options.verbose,
            ) as bar,
        ):
            workers = [
                asyncio.ensure_future(self._work(queue, calls, pace, journal, bar))
                for _ in range(num_workers)
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()

    async def _work(
        self, queue: Iterator[str], calls: Calls, pace: Pace, journal: Journal, bar: "tqdm[str]"
    ) -> None:
        for node_id in queue:
            try:
                response = await self._ask(node_id, calls, pace)
            except Exception as error:
                self._errors[node_id] = error
                self._stop |= self._options.on_failure == "fail"
            else:
                journal.add(self._keys[node_id], Entry(response))
                self._finish(node_id, Entry(response))
                if (len(self._outcomes) - self._reused) % self._options.save_every == 0:
                    self._save_progress()
            failed = len(self._errors) + len(self._outcomes) - self._made
            counts = {"made": self._made, "skipped": len(self._empty), "failed": failed}
            bar.set_postfix(counts, refresh=False)
            bar.update()
            if self._stop:
                return

    async def _ask(self, node_id: str, calls: Calls, pace: Pace) -> str:
        """Return the answer; when no attempt is left, raise the last one's error."""
        options = self._options
        prompt = options.template_for(node_id).format(
            context_str=self._texts[node_id], num_questions_per_chunk=options.num_questions
        )
        for attempt in itertools.count(1):
            await pace.ready()
            try:
                response = await calls.complete(prompt)
                if response.strip():
                    break
                raise GenerationError("the LLM's answer is empty")
            except Exception as error:
                logger.log(
                    logging.WARNING if options.verbose else logging.DEBUG,
                    "Node %s, attempt %d of %d failed: %s",
                    node_id,
                    attempt,
                    options.retry_limit,
                    self._reason(error, node_id),
                )
                if attempt == options.retry_limit or is_permanent(error) or self._stop:
                    raise
                await pace.after(error, attempt)
        return response

    def _reason(self, error: BaseException, node_id: str) -> str:
        return safe_message(error, owner=self._llm, texts=[self._texts[node_id]])

    def _finish(self, node_id: str, entry: Entry) -> None:
        outcome = read_entry(
            self._keys[node_id],
            entry,
            self._texts[node_id],
            limit=self._options.num_questions,
            filters=self._options.filters,
        )
        self._outcomes[node_id] = outcome
        self._made += bool(outcome.questions)

    def _save_progress(self) -> None:
        if self._made:
            build_dataset(self._texts, self._outcomes).save_json(self._options.output_path)

    def _save_answers(self) -> None:
        assert self._options.answers_path is not None
        answers = {
            query_id: answer
            for node_id in self._keys
            for query_id, _, answer in self._outcomes.get(node_id, Outcome((), Counter())).questions
            if answer is not None
        }
        with atomic_file(self._options.answers_path) as stream:
            json.dump(answers, stream, indent=4, ensure_ascii=False)

    def _nothing_came(self, report: GenerationReport) -> GenerationError:
        reason = next(iter(report.errors.values()), None) or (
            f"no answer held a usable question; dropped by filters: {dict(report.filtered)}"
        )
        return GenerationError(
            f"None of {report.failed:,} nodes got a question ({reason}). Answers that came are "
            f"in {str(self._options.journal_path)!r}; check the LLM, the prompt and 'filters'."
        )
