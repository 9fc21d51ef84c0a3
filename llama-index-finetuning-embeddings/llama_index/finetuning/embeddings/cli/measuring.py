"""The command that measures models: ``evaluate``."""

from typing import Annotated

import typer

from llama_index.finetuning.embeddings.cli.data import Seed
from llama_index.finetuning.embeddings.cli.output import AsJson, show, work
from llama_index.finetuning.embeddings.cli.parsing import sizes


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Folder, or name on the Hub; reference first."),
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="JSON file, or BEIR folder[:split].")],
    bm25: Annotated[
        bool, typer.Option("--bm25", help="Compare with BM25, and with the fusion of both.")
    ] = False,
    metric: Annotated[str, typer.Option(metavar="NAME", help="What verdicts go by.")] = "ndcg@10",
    dims: Annotated[
        str | None, typer.Option(metavar="N,N", help="Evaluate shorter vectors, too.")
    ] = None,
    general: Annotated[
        str | None, typer.Option(metavar="DATA", help="Other data, to see what was forgotten.")
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the report as a page.")
    ] = None,
    cache_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep the vectors here for the next time.")
    ] = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval with one model, or compare several."""
    prefixes = sizes(dims, "--dims")
    with work():
        from llama_index.finetuning.embeddings.cli import inputs
        from llama_index.finetuning.embeddings.evaluation.evaluate import DEFAULT_K_VALUES
        from llama_index.finetuning.embeddings.evaluation.metrics import check_metric
        from llama_index.finetuning.embeddings.files import check_writable

        if html is not None:
            check_writable(html, name="--html", folder=False)
        check_metric(metric, DEFAULT_K_VALUES)
        dataset = inputs.read_dataset(data)
        general_dataset = None if general is None else inputs.read_dataset(general)
        from llama_index.finetuning.embeddings import compare_retrieval

        report = compare_retrieval(
            {name: inputs.load_model(name) for name in models},
            dataset,
            metric=metric,
            bm25=bm25,
            dims=prefixes,
            general_dataset=general_dataset,
            cache_dir=cache_dir,
            show_progress=True,
            seed=seed,
        )
    try:
        if html is not None:
            with work():
                report.save_html(html)
    finally:
        show(report.to_markdown(), report.to_dict(), as_json=as_json)
