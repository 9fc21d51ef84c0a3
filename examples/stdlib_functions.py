"""Real retrieval data that is on every machine: the functions of the standard library."""

import ast
import random
import sysconfig
from pathlib import Path


def stdlib_pairs(n: int, *, seed: int) -> list[tuple[str, str]]:
    """Return (first sentence of the docstring, source without it) of ``n`` functions."""
    pairs: dict[str, str] = {}
    sources: set[str] = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            query = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            query = query.split(". ")[0]
            body = node.body[1:]
            if not body or len(query.split()) < 4 or query in pairs:
                continue
            node.body = body
            source = ast.unparse(node)
            if 100 <= len(source) <= 1500 and source not in sources:
                pairs[query] = source
                sources.add(source)
    return random.Random(seed).sample(sorted(pairs.items()), n)
