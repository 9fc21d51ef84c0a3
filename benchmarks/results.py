"""Run the benchmarks and write what they print into RESULTS.md, one section each.

Only what stands between a benchmark's two markers, ``<!-- adapter -->`` and ``<!-- /adapter -->``,
is replaced; a benchmark without markers gets its section at the end. All other text, headings and
notes below a section included, is written by hand and stays. Run::

    python benchmarks/results.py [--only search adapter] [--data ../shared/data]
        [--names squad] [--documents 2000] [--retired .rival/bin/python]
"""

import argparse
import datetime
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measuring import DATA

from llama_index.finetuning.embeddings.manifest import versions
from llama_index.finetuning.embeddings.sentence_transformer.precision import supports_bf16

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
TITLE = """# Results

What the scripts in this folder printed; `make bench` writes it anew, all but the notes. Every time
stands beside the rival's on the same machine, because machines differ. nDCG@10 is on the test file
of each data set.
"""
SECTIONS = {
    "overview": "Every method on every data set",
    "full_finetune": "All weights, against the retired engine and a hand-written Trainer",
    "learning_rate": "The default learning rate",
    "attention": "Attention in training, on a CPU",
    "adapter": "The adapter engine, against the retired one and against embedding alone",
    "search": "Exact search",
    "generation": "Generating questions",
    "dataset": "A million pairs",
}
# What a benchmark takes of the command line; one that goes on with its results gets a new file.
TAKES = {
    "overview": {"data", "names", "documents", "retired", "results"},
    "full_finetune": {"data", "names", "documents", "retired"},
    "learning_rate": {"data", "names", "results"},
    "adapter": {"data", "retired"},
    "generation": {"retired"},
}
PLAIN_TEXT = ("generation", "dataset")


def machine() -> str:
    """Describe the machine and the versions in one line."""
    names = re.findall(r"model name\s*:\s*(.*)", _cpu_info())
    arithmetic = "bf16" if supports_bf16(torch.device("cpu")) else "fp32"
    packages = ", ".join(
        f"{name} {version}"
        for name, version in versions().items()
        if name not in ("llama-index-finetuning-embeddings", "numpy")
    )
    return (
        f"{datetime.date.today()}, {names[0] if names else platform.machine()}, "
        f"{torch.get_num_threads()} threads, {arithmetic}; {packages}"
    )


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def run(name: str, options: argparse.Namespace) -> str:
    """Run one benchmark and return what is to stand between its markers."""
    takes = TAKES.get(name, set())
    shown = []
    if "names" in takes and options.names:
        shown += ["--names", *options.names]
    if "documents" in takes:
        shown += ["--documents", str(options.documents)]
    command = [sys.executable, str(HERE / f"{name}.py"), *shown]
    if "data" in takes:
        command += ["--data", str(options.data)]
    if "retired" in takes and options.retired:
        command += ["--retired", options.retired]
    print(f"{name} ...", flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if "results" in takes:
            # What an earlier run measured may be of an older engine.
            command += ["--results", str(Path(folder) / "results.json")]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    facts = f"_{machine()}; {duration(time.perf_counter() - began)}._"
    figures = f"```text\n{found.strip()}\n```" if name in PLAIN_TEXT else found.strip()
    return f"`{' '.join([f'benchmarks/{name}.py', *shown])}`\n\n{facts}\n\n{figures}"


def duration(seconds: float) -> str:
    """Return a time in the unit that fits."""
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def put(text: str, name: str, found: str) -> str:
    """Return the results with one benchmark's part replaced, or added at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, marker, rest = text.partition(begin)
    if not marker:
        before, rest = f"{text.rstrip()}\n\n## {SECTIONS[name]}\n\n", f"{end}\n"
    elif end not in rest:
        raise SystemExit(f"{RESULTS} has {begin} without {end} behind it.")
    return f"{before}{begin}\n{found}\n{end}{rest.partition(end)[2]}"


def main() -> None:
    """Run what is asked for, and put each section into its place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--names", nargs="+", help="data sets; all of the folder if left out")
    parser.add_argument("--documents", type=int, default=2000, help="cut the test corpora to these")
    parser.add_argument("--retired", help="Python with the retired package")
    options = parser.parse_args()
    needy = [name for name in options.only if "data" in TAKES.get(name, ())]
    if needy and not options.data.is_dir():
        others = " ".join(name for name in SECTIONS if "data" not in TAKES.get(name, ()))
        parser.error(
            f"there is no folder {str(options.data)!r} with the data of {', '.join(needy)} "
            "(NAME_train.json and NAME_test.json, datasets of this package). Name one with --data "
            f"(make bench DATA=folder), or measure what needs none: --only {others}"
        )
    for name in options.only:
        found = run(name, options)
        text = RESULTS.read_text("utf-8") if RESULTS.exists() else TITLE
        RESULTS.write_text(put(text, name, found), "utf-8")


if __name__ == "__main__":
    main()
