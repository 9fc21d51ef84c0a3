"""The fast suite on the wheel, for every Python here and the oldest and newest libraries.

Run all with ``make test-matrix``, one with ``nox -s 'tests-3.11(lowest)'``. A Python that is not
installed is skipped. On Pythons other than 3.11 pip may choose torch's CUDA build, which is large.
"""

import os
import shutil
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"
CONSTRAINTS = {"newest": "constraints.txt", "lowest": "constraints-lowest.txt"}
ROOT = Path(__file__).parent


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
@nox.parametrize("libraries", [nox.param(name, id=name) for name in CONSTRAINTS])
def tests(session: nox.Session, libraries: str) -> None:
    """Build the wheel, install it alone, and run the tests away from the sources."""
    constraints = ROOT / CONSTRAINTS[libraries]
    place = Path(session.create_tmp())
    dist = place / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(dist), str(ROOT), silent=True)
    wheel = next(dist.glob("*.whl"))
    extras = "bm25,cli,demo,dev,lora,openai,plot" + (",merge" if libraries == "newest" else "")
    session.install("--constraint", str(constraints), f"{wheel}[{extras}]")
    for name in ("tests", "examples", "benchmarks", "README.md", "CHANGELOG.md", "pyproject.toml"):
        source, target = ROOT / name, place / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    session.chdir(place)
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = ("python", "-m", "pytest", "--ignore", "tests/integration", *session.posargs)
    session.run(*command, env={**os.environ, **env})
