"""``python -m llama_index.finetuning.embeddings.cli``, where the script is not on the path."""

from llama_index.finetuning.embeddings.cli import main

main()
