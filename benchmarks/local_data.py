"""Write data sets of what is on this machine, for the other benchmarks to read: none was tuned to.

Functions without their docstrings, found by the docstring's first sentence: those of the standard
library, and of torch by a model trained on scipy's and scikit-learn's. Manual pages, found by the
line that says what they are about. Each side has 1,500 further documents. Run::

    python benchmarks/local_data.py folder
    python benchmarks/overview.py --data folder --methods base 'queries only' 'adapter, linear'
"""

import argparse
import ast
import gzip
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset

TRAINED, TESTED, OTHERS = 700, 500, 1500
MANUAL = Path("/usr/share/man")
Pair = tuple[str, str]


def functions(folders: Iterable[Path]) -> Iterator[Pair]:
    """Yield the first sentence of each docstring, and the function without it."""
    files = (file for folder in folders for file in folder.glob("**/*.py"))
    for path in sorted(files):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):  # tests of parsers, for instance
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.body[1:]:
                docstring = (ast.get_docstring(node) or "").split("\n\n")[0]
                node.body = node.body[1:]
                source = ast.unparse(node)
                if 100 <= len(source) <= 1500:
                    yield " ".join(docstring.split()).split(". ")[0], source


def manual_pages() -> Iterator[Pair]:
    """Yield what each manual page says of itself in a line, and the beginning of its text."""
    for path in sorted(MANUAL.glob("man[158]/*.gz")):
        if path.is_symlink():
            continue
        raw = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        name = re.search(r'\.SH\s+"?NAME"?\s*\n(.*?)\n(?=\.S[Hh])', raw, re.DOTALL)
        if name and " - " in (line := plain(name[1])):
            text = plain(raw[name.end() :])[:2500]
            if len(text) >= 200:
                yield line.split(" - ", 1)[1], text


def plain(text: str) -> str:
    """Take the marks of troff out of a text."""
    text = re.sub(r"^[.'](\\\".*|[A-Za-z]{1,3})\s?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\f.|\\&|\\s[-+]?\d|\\\*\(..", " ", text)
    return " ".join(text.replace("\\(aq", "'").replace("\\", "").replace('"', "").split())


def chosen(pairs: Iterable[Pair]) -> list[Pair]:
    """Return pairs in a random order, each query and each document once."""
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    for query, document in pairs:
        if 3 <= len(query.split()) <= 60 and query not in queries and document not in documents:
            queries[query], documents[document] = document, query
    return random.Random(0).sample(sorted(queries.items()), len(queries))


def write(folder: Path, name: str, train: list[Pair], test: list[Pair]) -> None:
    """Write both sides of a data set; what is not asked for is in the corpus all the same."""
    for side, pairs, size in (("train", train, TRAINED), ("test", test, TESTED)):
        others = [document for _, document in pairs[size : size + OTHERS]]
        dataset = EmbeddingQAFinetuneDataset.from_pairs(pairs[:size], corpus=others)
        dataset.save_json(folder / f"{name}_{side}.json")


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    paths = sysconfig.get_paths()
    site = Path(paths["purelib"])
    library = [path for path in Path(paths["stdlib"]).iterdir() if path.name != "site-packages"]
    found = {
        "standard-library": chosen(functions(library)),
        "manual-pages": chosen(manual_pages()),
    }
    for name, pairs in found.items():
        write(folder, name, pairs[: TRAINED + OTHERS], pairs[TRAINED + OTHERS :])
    trained = chosen(functions([site / "scipy", site / "sklearn"]))
    write(folder, "scipy-to-torch", trained, chosen(functions([site / "torch"])))


if __name__ == "__main__":
    main()
