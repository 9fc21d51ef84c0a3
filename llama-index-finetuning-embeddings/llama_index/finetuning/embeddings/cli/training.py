"""Commands that make models: ``adapter``, ``full`` and ``merge``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llama_index.finetuning.embeddings.cli.data import Seed
from llama_index.finetuning.embeddings.cli.output import AsJson, show, work
from llama_index.finetuning.embeddings.cli.parsing import length, sizes

Train = Annotated[
    str, typer.Option("--train", metavar="DATA", help="JSON file, or BEIR folder[:split].")
]
Val = Annotated[
    str | None, typer.Option("--val", metavar="DATA", help="Data to choose the best by.")
]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Folder, or name on the Hub.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where to train, e.g. cpu or cuda.")
]
LearningRate = Annotated[
    float | None, typer.Option(metavar="X", help="Learning rate at its highest.")
]


def adapter(
    train: Train,
    model: Model,
    output: Output,
    val: Val = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over the pairs.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Pairs a step.")] = None,
    learning_rate: LearningRate = None,
    negatives: Annotated[
        Literal["relevant", "in_batch", "corpus"],
        typer.Option(metavar="WHICH", help="relevant, in_batch or corpus."),
    ] = "relevant",
    transform: Annotated[
        Literal["query", "both"],
        typer.Option(metavar="WHAT", help="query (an index stays valid) or both."),
    ] = "query",
    cache_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep the base's vectors here.")
    ] = None,
    device: Device = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Train a small adapter behind an embedding model.

    An index stays valid, since only queries change. Without epochs, batch size and learning rate,
    good ones are chosen, and the base itself where nothing is better.
    """
    with work():
        from llama_index.finetuning.embeddings.cli import inputs

        dataset = inputs.read_dataset(train)
        val_dataset = None if val is None else inputs.read_dataset(val)
        from llama_index.finetuning.embeddings import EmbeddingAdapterFinetuneEngine

        tuning = {"epochs": epochs, "batch_size": batch_size, "lr": learning_rate}
        # What is not given is left to the engine, which then chooses.
        given: dict[str, Any] = {name: x for name, x in tuning.items() if x is not None}
        engine = EmbeddingAdapterFinetuneEngine(
            dataset,
            inputs.load_model(model, device),
            model_output_path=output,
            device=device,
            val_dataset=val_dataset,
            negatives=negatives,
            transform=transform,
            cache_dir=cache_dir,
            seed=seed,
            **given,
        )
        engine.finetune()
    _show_model(output, engine, as_json=as_json)


def full(
    train: Train,
    model: Model,
    output: Output,
    val: Val = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the data.")] = 2,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Documents a step.")] = 10,
    learning_rate: LearningRate = None,
    sides: Annotated[
        Literal["both", "query"],
        typer.Option(metavar="WHICH", help="both, or query: an index stays valid."),
    ] = "both",
    all_docs: Annotated[
        bool, typer.Option("--all-docs", help="All relevant documents, not the first.")
    ] = False,
    max_seq_length: Annotated[
        str, typer.Option(metavar="N", help="Tokens read: auto, model or N.")
    ] = "auto",
    matryoshka_dims: Annotated[
        str | None, typer.Option(metavar="N,N", help="Train shorter vectors too.")
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Before every query.")
    ] = None,
    text_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Before every document.")
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option(metavar="TYPE", help="auto, bf16, fp16 or fp32."),
    ] = "auto",
    evaluation_steps: Annotated[
        int, typer.Option(metavar="N", help="Steps between evaluations.")
    ] = 50,
    patience: Annotated[
        int | None, typer.Option(metavar="N", help="Stop after so many without a gain.")
    ] = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Save checkpoints below checkpoints/.")
    ] = False,
    checkpoint_steps: Annotated[
        int, typer.Option(metavar="N", help="Steps between checkpoints.")
    ] = 500,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code of the model's folder.")
    ] = False,
    device: Device = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Finetune all weights of a Sentence Transformer.

    With --val, the best weights are kept (the base's included), and a table shows before and after.
    """
    dims = sizes(matryoshka_dims, "--matryoshka-dims")
    tokens = length(max_seq_length)
    with work():
        from llama_index.finetuning.embeddings.cli import inputs

        dataset = inputs.read_dataset(train)
        val_dataset = None if val is None else inputs.read_dataset(val)
        # After the files, which may be wrong: this import takes seconds.
        from llama_index.finetuning.embeddings import SentenceTransformersFinetuneEngine

        with inputs.loading(model):
            engine = SentenceTransformersFinetuneEngine(
                dataset,
                model_id=model,
                model_output_path=output,
                batch_size=batch_size,
                val_dataset=val_dataset,
                epochs=epochs,
                evaluation_steps=evaluation_steps,
                use_all_docs=all_docs,
                trust_remote_code=trust_remote_code,
                device=device,
                save_checkpoints=checkpoints,
                resume_from_checkpoint=resume,
                checkpoint_save_steps=checkpoint_steps,
                train=sides,
                training_args=None if learning_rate is None else {"learning_rate": learning_rate},
                matryoshka_dims=dims,
                query_prompt=query_prompt,
                text_prompt=text_prompt,
                max_seq_length=tokens,
                precision=precision,
                early_stopping_patience=patience,
                seed=seed,
            )
        engine.finetune()
    _show_model(output, engine, as_json=as_json)


def merge(
    finetuned: Annotated[str, typer.Argument(metavar="FOLDER", help="The finetuned model.")],
    base: Annotated[str, typer.Option(metavar="NAME", help="The model that it was made of.")],
    output: Output,
    weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="Share of the finetuned model, 0 to 1; 0.5 without --val."),
    ] = None,
    val: Annotated[
        str | None, typer.Option(metavar="DATA", help="Choose the share by this dataset.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Average a finetuned model with its base.

    This gives back some of what was forgotten.
    """
    with work():
        from llama_index.finetuning.embeddings.cli import inputs

        val_dataset = None if val is None else inputs.read_dataset(val)
        from llama_index.finetuning.embeddings import merge_with_base
        from llama_index.finetuning.embeddings.manifest import read_manifest

        if weight is None and val_dataset is None:
            weight = 0.5
        path = merge_with_base(finetuned, base, output, weight=weight, val_dataset=val_dataset)
        merged = read_manifest(Path(path)).get("merged") or {}
    scores = merged.get("ndcg@10")
    text, data = f"The merged model is in {path!r}.", {"output": path}
    if scores:
        tried = ", ".join(f"{share} {score:.4f}" for share, score in scores.items())
        text += f" {merged['weight']:g} of it is the finetuned model (nDCG@10 by share: {tried})."
        data |= {"weight": merged["weight"], "ndcg@10": scores}
    show(text, data, as_json=as_json)


def _show_model(output: str, engine: Any, *, as_json: bool) -> None:
    report = engine.report
    parts = [
        f"{engine.summary} Without --val there is no table of before and after."
        if report is None
        else report.to_markdown(),
        f"The finetuned model is in {output!r}.",
    ]
    data = {
        "output": output,
        "summary": engine.summary,
        "report": None if report is None else report.to_dict(),
    }
    show("\n\n".join(part.strip() for part in parts), data, as_json=as_json)
