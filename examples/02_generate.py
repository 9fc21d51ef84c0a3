"""Make a training set from documents with an LLM.

With OPENAI_API_KEY set, gpt-4o-mini asks the questions; without, a scripted stand-in does, so
that the example runs anywhere:

    pip install 'llama-index-finetuning-embeddings[demo,openai]'
    python examples/02_generate.py
"""

import os
import re
from pathlib import Path
from typing import Any

from llama_index.core.llms import LLM, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode
from stdlib_functions import stdlib_pairs

from llama_index.finetuning.embeddings import generate_qa_embedding_pairs


class Scripted(CustomLLM):
    """Asks for the function and for its arguments, as an LLM would in more words."""

    @property
    def metadata(self) -> LLMMetadata:
        """Say nothing special."""
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer with two numbered questions."""
        name, arguments = re.search(r"def (\w+)\((.*?)\)", prompt, re.DOTALL).groups()
        words = name.replace("_", " ").strip()
        first = re.split(r"[,:=]", arguments)[-1].strip() or "anything"
        return CompletionResponse(
            text=f"1. Which function can {words}?\n2. How is {first} used to {words}?"
        )

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Refuse: the generation does not stream."""
        raise NotImplementedError


def language_model() -> LLM:
    """Return the real LLM if there is a key for it."""
    if not os.environ.get("OPENAI_API_KEY"):
        return Scripted()
    from llama_index.llms.openai import OpenAI

    return OpenAI("gpt-4o-mini")


OUTPUT = Path("example_output")
OUTPUT.mkdir(exist_ok=True)
functions = [source for _, source in stdlib_pairs(40, seed=42)]
nodes = [TextNode(id_=f"function-{i}", text=source) for i, source in enumerate(functions)]

# Run it again, or kill it halfway: nodes that are finished are not paid for twice.
dataset = generate_qa_embedding_pairs(
    nodes, language_model(), output_path=str(OUTPUT / "generated.json")
)
print(dataset.describe())
for query_id, query in list(dataset.queries.items())[:4]:
    print(f"{query}  ->  {dataset.relevant_docs[query_id][0]}")
