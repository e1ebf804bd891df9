"""The notebook that builds all of VAR by itself, and the one file that it is exported to."""

import ast
import builtins
import io
import json
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "course"))

import from_scratch  # noqa: E402

LAST = "10 · The same in varmini"


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no text at the top."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
              tokenize.ENDMARKER}  # fmt: skip
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in layout
             for line in range(token.start[0], token.end[0] + 1)}  # fmt: skip
    first = ast.parse(source).body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return len(lines - set(range(1, first.end_lineno + 1))) if text else len(lines)


def imported(source: str) -> set[str]:
    """The packages that a piece of code imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def test_nothing_of_varmini_is_imported_before_the_last_section():
    sections = {section for section, *_ in from_scratch.cells()}
    assert LAST in sections and len(sections) == 11  # with what comes before the first title
    for section, code, _ in from_scratch.cells():
        assert "varmini" not in imported(code) or section == LAST


def test_the_exported_file_is_one_short_program():
    source = from_scratch.exported()
    compile(source, "var_from_scratch.py", "exec")
    method, _, rest = source.partition(f" {LAST}\n")
    assert code_lines(method) <= 300 and "import varmini" in rest
    assert imported(method) <= {"io", "math", "pathlib", "matplotlib", "numpy", "pyarrow", "torch",
                                "PIL", "safetensors"}  # fmt: skip
    assert "\nSHARE = 1 " in source and max(map(len, source.splitlines())) <= 100


def test_cells_left_out_define_nothing_that_the_file_needs():
    """Every name that the exported file reads is set, imported or built in somewhere in it."""
    tree = ast.parse(from_scratch.exported())
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
    made = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    bound |= {n.name for n in made} | {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    bound |= {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
    assert {node.id for node in names if isinstance(node.ctx, ast.Load)} <= bound


def test_the_account_of_the_whole_training_says_how_it_was_made():
    account = json.loads((from_scratch.MODELS / "run.json").read_text())
    for name in ("command", "commit", "date", "hardware", "threads", "tokenizer_cpu_seconds",
                 "var_cpu_seconds", "psnr", "held_out_loss"):  # fmt: skip
        assert account[name], name
