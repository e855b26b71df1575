"""Every command and every Python example of the README and of docs/ does what it says.

Blocks marked `sh` and `python` are run, those marked `console` and `text` are not: they need a
network, a device, data sets or minutes.
"""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
if not hasattr(os, "fork"):
    pytest.skip("commands are forks of one process", allow_module_level=True)

from checkpoints import huggingface_tensors, save_huggingface, values_of
from file_server import FileServer, serving
from gpt2rt import HParams, __version__
from models import LargerWeights
from openai_files import write_release
from warm import warm_commands

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines_of(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines() if line.strip()]


def commands_of(text: str) -> list[str]:
    """The lines to run: all but those that make or install an environment."""
    return [line for line in lines_of(text) if line.split()[0] not in ("make", "pip")]


# ---- commands


# Where a command would download GPT-2 117M, a small model on this machine takes its name.
SHAPE = HParams(n_vocab=1000, n_ctx=128, n_embd=64, n_head=4, n_layer=2)
SMALL = """
import pickle
from gpt2rt.bundles import catalog
catalog.RELEASES = (pickle.loads({release!r}),)
"""


class Reader:
    """Someone who types commands, with a home directory of their own."""

    def __init__(self, place: Path, programs: Path, mirror: str) -> None:
        self.place = place
        self.home = place / "home"
        self._environment = {
            **os.environ,
            "GPT2RT_HOME": str(self.home),
            "GPT2RT_MIRRORS": mirror,
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        }
        self._environment.pop("GPT2RT_MODEL", None)

    def types(self, line: str) -> str:
        """Run a shell line; returns what it prints on standard output."""
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self.place,
            env=self._environment,
            capture_output=True,
            text=True,
            input="",
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{line}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Programs whose 117M is a small model, and where that is to be had."""

    published = tmp_path_factory.mktemp("web") / "published"
    release = write_release(published, SHAPE, factor=1.0)
    server = FileServer(published)
    small = SMALL.format(release=pickle.dumps(release))
    with serving(server), warm_commands(small) as programs:
        yield programs, server.root


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, world: tuple[Path, str]) -> Path:
    """A home directory with what pages use that do not export it themselves."""
    reader = Reader(tmp_path_factory.mktemp("exported"), *world)
    for precision in ("int8", "fp32"):
        reader.types(f"gpt2rt export 117M --{precision} --no-verify")
    return reader.home


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(PAGES[page])])
def test_the_commands_of_a_page(
    page: str, tmp_path: Path, world: tuple[Path, str], exported: Path
) -> None:
    """In order, since later ones use what earlier ones make."""
    reader = Reader(tmp_path, *world)
    lines = commands_of(PAGES[page])
    if not any(line.startswith("gpt2rt export 117M") for line in lines):
        shutil.copytree(exported, reader.home, ignore=shutil.ignore_patterns("checkpoints"))
    # The fine-tune that pages speak of.
    weights = LargerWeights(HParams(300, 64, 32, 4, 2), seed=1)
    tensors = huggingface_tensors(values_of(weights))
    save_huggingface(tmp_path / "my-fine-tune", weights.hparams, tensors)
    for line in lines:
        printed = reader.types(line)
        # Of random weights the text may end at once: an empty line.
        assert printed or "gpt2rt" not in line or "--output" in line, line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "code"),
    [(page, code) for page in PAGES for code in blocks(PAGES[page], "python")],
    ids=lambda value: value if value in PAGES else "",
)
def test_the_python_of_a_page(
    page: str, code: str, tmp_path: Path, world: tuple[Path, str]
) -> None:
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    assert Reader(tmp_path, *world).types("python example.py")


@pytest.mark.slow
def test_exporting_117M_takes_less_than_2_5_GB(tmp_path: Path) -> None:  # noqa: N802
    """At full size, with the command that the documentation has for want of a network."""
    line = next(line for line in lines_of(PAGES["docs/export.md"]) if "--output babble" in line)
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', *sys.argv[1:]], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line, comments=True)],
        cwd=tmp_path,
        env={**os.environ, "GPT2RT_HOME": str(tmp_path / "home"), "GPT2RT_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < 2.5e9


# ---- what the pages name


def test_the_readme_opens_with_two_commands() -> None:
    first = [shlex.split(line, comments=True) for line in lines_of(README)[:2]]
    assert first == [["make", "demo"], ["make", "test"]]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
    prose = re.sub(r"^(```.*?^```|\|.*?$|#.*?$)", "", README, flags=re.MULTILINE | re.DOTALL)
    sentences = re.split(r"[.:?!]\s|\n\n", prose)
    assert max(len(sentence.split()) for sentence in sentences) <= 40


@pytest.mark.parametrize("page", PAGES)
def test_the_make_targets_of_a_page_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make ([\w-]+)", PAGES[page], re.MULTILINE)
    named += re.findall(r"`make ([\w-]+)`", PAGES[page])
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_extras_of_the_pages_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    text = "\n".join(PAGES.values())
    named = [
        extra
        for group in re.findall(r'pip install "(?:gpt2rt|\.)\[([\w,-]+)\]"', text)
        for extra in group.split(",")
    ]
    named += re.findall(r"extras? (?:is )?`([\w-]+)`", text)
    assert set(named) <= extras
    listed = re.findall(r"^\| `([\w-]+)` \|", PAGES["docs/install.md"], re.MULTILINE)
    assert extras <= set(listed)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    places = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page])
    local = [place for place in places if "://" not in place]
    here = (ROOT / page).parent
    assert all((here / place).is_file() for place in local)
    assert "TODO" not in PAGES[page]


def test_the_changelog_has_this_version() -> None:
    releases = re.findall(r"^## (\d\S+) \(\d{4}-\d\d-\d\d\)$", CHANGELOG, re.MULTILINE)
    assert releases[0] == __version__


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(f"docs/{name}" for name in listed) == sorted(set(PAGES) - {"README.md"})


def test_the_tables_to_extend_exist() -> None:
    named = re.findall(r"(?:table|protocol) `(\w+)`", PAGES["docs/extend.md"])
    assert len(named) > 6
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("gpt2rt", "export", "bench", "tests/helpers")
        for path in (ROOT / folder).rglob("*.py")
    )
    defined = set(re.findall(r"^(?:class )?(\w+)(?:: [^=\n]+)?(?: =|\()", code, re.MULTILINE))
    assert set(named) <= defined


def test_the_rooms_of_the_pages_are_those_of_the_code() -> None:
    named = re.findall(r"^\| `(\w+/[\w/.]*)` \|", PAGES["docs/architecture.md"], re.MULTILINE)
    assert all((ROOT / place).exists() for place in named)
    for package in ("gpt2rt", "export/gpt2rt_export"):
        rooms = {path.parent for path in (ROOT / package).glob("*/__init__.py")}
        assert {f"{room.relative_to(ROOT).as_posix()}/" for room in rooms} <= set(named)
    files = {path.name for path in (ROOT / "gpt2rt").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {f"gpt2rt/{name}" for name in files} <= set(named)


def test_the_gates_of_the_pages_are_those_of_the_exporter() -> None:
    from gpt2rt_export.verify.gates import GATES

    rows = re.findall(
        r"^\| (fp32|fp16|int8|int4) \| ([\d.].*) \|$", PAGES["docs/faithfulness.md"], re.MULTILINE
    )
    found = {name: [_number(cell) for cell in row.split(" | ")] for name, row in rows}
    wanted = {
        name: [gate.largest, gate.tempered, gate.kl, gate.perplexity, gate.added]
        for name, gate in GATES.items()
    }
    assert found == wanted


def _number(cell: str) -> float:
    return float(cell.removesuffix(" %")) / 100 if cell.endswith("%") else float(cell)


def test_the_makefile_installs_what_the_demo_needs() -> None:
    """`make -n` in a folder without .venv names every step, from the environment to the story."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    made = subprocess.run(["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True)
    steps = made.stdout
    assert made.returncode == 0
    order = [steps.index(step) for step in ("-m venv", "pip install", "export demo", "generate")]
    assert order == sorted(order)
