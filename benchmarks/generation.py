"""Question generation against the retired function: one scripted LLM that takes 50 ms a call.

Run: python benchmarks/generation.py --retired VENV/bin/python
where VENV has the retired llama-index-finetuning installed; without it only this package runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import rival_environment

# Runs in either environment: the LLM, the nodes and the positional call are the same.
WORKLOAD = """
import json, sys, time
sys.modules.setdefault("tensorflow", None)
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode

module, n_nodes, latency, output, options = sys.argv[1:]
common = __import__(module, fromlist=["generate_qa_embedding_pairs"])

class ScriptedLLM(CustomLLM):
    @property
    def metadata(self):
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt, formatted=False, **kwargs):
        time.sleep(float(latency))
        number = prompt.split("report ")[1].split(" ")[0]
        return CompletionResponse(
            text=f"1. What did report {number} find?\\n2. Who wrote report {number}?"
        )

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError

nodes = [
    TextNode(id_=f"node-{i}", text=f"The report {i} found that river {i % 7} rose by {i} metres.")
    for i in range(int(n_nodes))
]
start = time.perf_counter()
dataset = common.generate_qa_embedding_pairs(
    nodes, ScriptedLLM(), output_path=output, verbose=False, **json.loads(options)
)
seconds = time.perf_counter() - start
pairs = sorted((dataset.relevant_docs[q][0], query) for q, query in dataset.queries.items())
print("RESULT", json.dumps({"seconds": seconds, "pairs": pairs}))
"""


def run(python: str, arguments: argparse.Namespace, folder: str, options: dict[str, int]) -> dict:
    """Time one package's function in its own process."""
    output = Path(folder) / f"{'ours' if options else 'retired'}.json"
    command = [
        *(python, "-c", WORKLOAD, "llama_index.finetuning.embeddings.common"),
        *(str(arguments.nodes), str(arguments.latency), str(output), json.dumps(options)),
    ]
    env = None if options else rival_environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{python} failed:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def main() -> None:
    """Run this package, then the retired one, and compare times and questions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--retired", help="Python with the retired package; none: leave it out")
    parser.add_argument("--nodes", type=int, default=400)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds a call")
    parser.add_argument("--workers", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = run(sys.executable, arguments, folder, {"num_workers": arguments.workers})
        print(f"{arguments.nodes} nodes, {1000 * arguments.latency:.0f} ms a call")
        print(f"this package, {arguments.workers} workers: {ours['seconds']:7.2f} s")
        if arguments.retired is None:
            print("retired package: not run (give --retired)")
            return
        rival = run(arguments.retired, arguments, folder, {})
    print(f"retired package:          {rival['seconds']:7.2f} s")
    print(f"ratio:                    {rival['seconds'] / ours['seconds']:7.2f}")
    same = ours["pairs"] == rival["pairs"]
    print(
        f"question sets:            {'identical' if same else 'DIFFERENT'} ({len(ours['pairs'])})"
    )


if __name__ == "__main__":
    main()
