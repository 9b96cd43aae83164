"""Protects the house: who may import whom, what runs without torch, and how large anything may grow.

    pytest tests/test_architecture.py

The imports are read with `ast`, those inside functions included, so that a lazy import is no way around.
"""

from __future__ import annotations

import ast
import importlib
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "llmkit"

# ------------------------------------------------------------------------------------- who may import whom

FLOOR = {"errors", "records", "folder"}
MACHINE = FLOOR | {"data", "train", "observe", "memory"}
WORKSHOP = MACHINE | {"cost", "diagnose", "faults", "rescue"}

MAY_IMPORT = {
    "errors": set(),
    "records": {"errors"},
    "folder": {"errors", "records"},
    "cost": FLOOR,
    "diagnose": FLOOR | {"cost"},
    "data": FLOOR,
    "train": FLOOR | {"data"},
    "observe": FLOOR | {"data"},
    "memory": FLOOR | {"cost", "train"},
    "faults": MACHINE,
    "rescue": MACHINE,
    "lab": WORKSHOP,
    "grade": WORKSHOP | {"lab"},
    "interview": WORKSHOP | {"lab", "grade"},
    "show": WORKSHOP | {"lab", "grade", "interview"},
    "cli": WORKSHOP | {"lab", "grade", "interview", "show"},
    "__main__": {"cli"},
    "__init__": set(),
}

STDLIB_ONLY = ("errors", "records", "folder", "cost", "diagnose")
TORCH_FREE = (*STDLIB_ONLY, "data")
HEAVY = ("torch", "numpy", "matplotlib", "tokenizers", "jinja2", "papermill", "IPython")


def sources() -> list[Path]:
    return sorted(path for path in KIT.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    """`llmkit/train/loop.py` and `llmkit/train/` are in room "train", `llmkit/cli.py` in "cli"."""
    return path.relative_to(KIT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """(line, dotted module, inside a function or under TYPE_CHECKING) of every import in a file."""
    found: list[tuple[int, str, bool]] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        for child in ast.iter_child_nodes(node):
            later = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            later = later or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.Import):
                found.extend((child.lineno, alias.name, deferred) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                # `from llmkit import show` names the room in the alias
                names = [f"llmkit.{a.name}" for a in child.names] if module == "llmkit" else [module]
                found.extend((child.lineno, name, deferred) for name in names)
            visit(child, later)

    visit(ast.parse(path.read_text()), False)
    return found


def forbidden(path: Path) -> list[str]:
    """What a file imports that its room may not, as `file:line: ...`."""
    room, where = room_of(path), path.relative_to(ROOT)
    wrong = []
    for line, module, deferred in imports(path):
        top, _, rest = module.partition(".")
        if module.startswith("."):
            wrong.append(f"{where}:{line}: relative import, write `from llmkit...`")
        elif top == "llmkit":
            target = rest.partition(".")[0]
            if target not in MAY_IMPORT[room] | {room, "", "__version__"}:
                wrong.append(f"{where}:{line}: {room} may not import llmkit.{target}")
            elif room == "cli" and not deferred and target not in FLOOR | {"cli", "", "__version__"}:
                wrong.append(f"{where}:{line}: cli imports llmkit.{target} inside the verb, not above it")
        elif room in STDLIB_ONLY and top not in sys.stdlib_module_names and top != "__future__":
            wrong.append(f"{where}:{line}: {room} uses the standard library alone, not {top}")
        elif room in TORCH_FREE and top == "torch":
            wrong.append(f"{where}:{line}: {room} has no torch")
    return wrong


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in sources()} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(KIT)))
def test_a_room_imports_only_what_the_table_allows(path):
    assert forbidden(path) == []


@pytest.mark.parametrize(
    ("room", "line", "says"),
    [
        ("diagnose", "from llmkit.faults import FAULTS", "diagnose may not import llmkit.faults"),
        ("diagnose", "import numpy", "diagnose uses the standard library alone, not numpy"),
        ("data", "def f():\n    import torch.nn", "data has no torch"),
        ("train", "def f():\n    from llmkit import observe", "train may not import llmkit.observe"),
        ("train", "from .loop import train", "relative import"),
        ("lab", "import llmkit.show.plots", "lab may not import llmkit.show"),
        ("cli", "from llmkit.train import tiny", "inside the verb"),
        ("grade", "class A:\n    def f(self):\n        import llmkit.cli", "grade may not import llmkit.cli"),
    ],
)
def test_a_planted_import_is_caught(monkeypatch, tmp_path, room, line, says):
    planted = tmp_path / "llmkit" / room / "planted.py"
    planted.parent.mkdir(parents=True)
    planted.write_text(line)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "KIT", tmp_path / "llmkit")
    (only,) = forbidden(planted)
    assert says in only


def test_the_loop_does_not_know_that_it_is_watched_and_the_doctor_has_not_met_the_wreckers():
    assert not MAY_IMPORT["train"] & {"observe", "memory", "faults", "rescue", "diagnose", "lab"}
    assert not MAY_IMPORT["diagnose"] & {"faults", "train"}
    assert all("show" not in allowed for room, allowed in MAY_IMPORT.items() if room not in ("show", "cli"))


# ---------------------------------------------------------------------------------- what runs without torch

BLOCK = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""

DOCTOR_AND_CALCULATOR = """
from llmkit.diagnose import diagnose
from llmkit.folder import RunFolder
from llmkit.records import Event, StepRecord
folder = RunFolder.create(FOLDER, {"config": {"precision": "fp32"}})
for step in range(40):
    bad = step >= 30
    folder.append("steps", StepRecord(
        step=step, loss=float("nan") if bad else 4.0 - 0.01 * step, grad_norm=float("nan") if bad else 1.0,
        lr=1e-3, tokens=512, skipped=bad, nonfinite="loss" if bad else ""))
folder.append("events", Event(kind="nonfinite", step=30, data={
    "module": "blocks.1.mlp", "type": "MLP", "phase": "forward", "parameter": "", "kind": "nan",
    "input_absmax": 3.0, "output_share": 0.5, "precision": "fp32", "inputs_finite": True,
    "documents": [], "sequences": [0]}))
(finding,) = diagnose(RunFolder.open(FOLDER)).findings
print(finding.code, finding.cause)
"""

TOKENS = """
from llmkit.data import Loader, generated
data = generated(vocab_size=300, documents=50, cache=FOLDER)
print(Loader(data, batch=4, context=16, seed=0).batch(3).x.shape)
"""


def without(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    program = f"BLOCKED = {blocked!r}\n{BLOCK}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def modules(rooms: tuple[str, ...]) -> list[str]:
    dotted = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources() if room_of(path) in rooms
    ]
    return [name.removesuffix(".__init__") for name in dotted]


@pytest.mark.parametrize(
    ("rooms", "blocked"),
    [(TORCH_FREE, ("torch",)), (STDLIB_ONLY, HEAVY)],
    ids=["without torch", "with the standard library alone"],
)
def test_every_file_of_the_light_rooms_imports(rooms, blocked):
    done = without(blocked, "".join(f"import {name}\n" for name in modules(rooms)))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_doctor_works_on_a_log_mailed_from_a_cluster(tmp_path):
    done = without(HEAVY, f"FOLDER = {str(tmp_path / 'run')!r}\n{DOCTOR_AND_CALCULATOR}")
    assert (done.stdout, done.stderr) == ("LK101 blocks.1.mlp\n", "")


def test_the_data_room_works_without_torch(tmp_path):
    done = without(("torch",), f"FOLDER = {str(tmp_path)!r}\n{TOKENS}")
    assert (done.stdout, done.stderr) == ("(4, 16)\n", "")


def test_the_block_blocks():
    assert "torch is blocked" in without(("torch",), "import torch").stderr


@pytest.mark.parametrize("module", ["llmkit", "llmkit.cli"])
def test_importing_the_kit_or_its_command_line_loads_nothing_heavy(module):
    done = without((), f"import {module}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -------------------------------------------------------------------------------------- how large it may grow

TEXT = (".py", ".js", ".html", ".css")
MODULE_LINES, FUNCTION_LINES, LOOP_LINES, KIT_LINES = 300, 45, 60, 17_200


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


def statements(path: Path) -> int:
    """Logical lines: what the parser takes as one, however often it is wrapped. Docstrings are none."""
    text = path.read_text()
    logical = sum(t.type == tokenize.NEWLINE for t in tokenize.generate_tokens(io.StringIO(text).readline))
    bodies = (getattr(node, "body", None) for node in ast.walk(ast.parse(text)))
    lines = [line for body in bodies if isinstance(body, list) for line in body]
    return logical - sum(isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in lines)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ('"""Doc.\n\nMore."""\n\n# why\nx = 1\n', 1),
        ("x = f(\n    1,\n    2,\n)\n", 1),
        ('def f():\n    """Doc."""\n    return 1\n', 2),
        ('class A:\n    x: int = 0\n    """What x is."""\n', 2),
    ],
)
def test_what_counts_as_a_statement(tmp_path, text, count):
    (tmp_path / "a.py").write_text(text)
    assert statements(tmp_path / "a.py") == count


def functions(path: Path) -> list[tuple[str, int]]:
    """(name, lines of code) of every function: explaining more, or a blank line, must not cost room."""
    text = path.read_text()
    silent = {n for n, line in enumerate(text.splitlines(), 1) if line.strip()[:1] in ("", "#")}
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = set(range(node.lineno, node.end_lineno + 1)) - silent
            if ast.get_docstring(node, clean=False) is not None:
                lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
            found.append((node.name, len(lines)))
    return found


def texts() -> list[Path]:
    return sorted(p for p in KIT.rglob("*") if p.suffix in TEXT and "__pycache__" not in p.parts)


def test_no_file_is_longer_than_300_lines():
    assert {str(p.relative_to(ROOT)): count(p) for p in texts() if count(p) > MODULE_LINES} == {}


def test_no_function_is_longer_than_45_lines():
    long = {
        f"{p.relative_to(ROOT)}: {name}": n
        for p in sources()
        for name, n in functions(p)
        if n > FUNCTION_LINES
    }
    assert {name: lines for name, lines in long.items() if not name.endswith("train/loop.py: train")} == {}


def test_the_loop_fits_on_one_screen():
    assert dict(functions(KIT / "train" / "loop.py"))["train"] <= LOOP_LINES


def test_the_kit_stays_small():
    """In logical lines: neither to explain nor to wrap a call may cost room. Exercises stand beside the kit."""
    assert sum(map(statements, sources())) <= KIT_LINES


def test_no_room_is_called_utils():
    assert [p for p in sources() if p.stem in ("utils", "util", "helpers", "common", "misc")] == []


# ------------------------------------------------------------------------------------------- the public names


def bound(path: Path) -> set[str]:
    """Public names of ours that a room's __init__.py binds at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if (getattr(node, "module", "") or "").startswith("llmkit"):
                names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


ROOMS = sorted({path.parent.name for path in KIT.glob("*/__init__.py")} - {"cli"})  # nobody imports from cli


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_offers_and_offers_what_it_says(room):
    offers = importlib.import_module(f"llmkit.{room}").__all__
    assert len(offers) == len(set(offers))  # ruff's RUF022 keeps them in order
    assert bound(KIT / room / "__init__.py") <= set(offers)  # a name that is loaded late is not bound here
    assert [name for name in offers if not hasattr(importlib.import_module(f"llmkit.{room}"), name)] == []
