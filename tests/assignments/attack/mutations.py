"""Makes wrong submissions by machine: the solution with one node of its syntax tree changed."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

from assignments import proof

OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult], ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt, ast.LtE], ast.IsNot: [ast.Is],
}  # fmt: skip
TEXTS = {
    "area": ["nearest", "bilinear"], "bicubic": ["bilinear", "nearest"], "-inf": ["inf", "0"],
    "bilinear": ["nearest", "area"], "tanh": ["none"],
}  # fmt: skip
NAMES = {
    "sum": ["mean"], "mean": ["sum", "max"], "argmin": ["argmax"], "min": ["max"], "max": ["min"],
    "square": ["abs"], "mse_loss": ["l1_loss"], "silu": ["relu"],
    "gelu": ["relu"], "exp": ["expm1"], "log": ["log1p", "log10"], "cumsum": ["cumprod"],
    "bool": ["uint8", "float32"], "float": ["half"], "ones": ["zeros"], "sqrt": ["square"],
}  # fmt: skip
MODULES = {"torch", "F", "np", "math"}
EACH = 75
"""Mutants that are kept of an assignment."""


@dataclass(frozen=True)
class Mutant:
    """A wrong submission, and in words what was changed."""

    function: str
    operator: str
    words: str
    source: str


def alternatives(node: ast.AST, variables: list[str]) -> Iterator[tuple[str, ast.AST]]:
    """What may stand in place of a node, each with the kind of change."""
    match node:
        case ast.BinOp(left, op, right):
            for other in OPERATORS.get(type(op), []):
                yield "operator", ast.BinOp(left, other(), right)
            if not isinstance(op, ast.MatMult):
                yield "part dropped", left
                yield "part dropped", right
            if isinstance(op, ast.Sub | ast.Div | ast.Pow | ast.MatMult):
                yield "sides swapped", ast.BinOp(right, op, left)
        case ast.Compare(left, [op], comparators):
            for other in OPERATORS.get(type(op), []):
                yield "comparison", ast.Compare(left, [other()], comparators)
        case ast.UnaryOp(_, operand):
            yield "sign or not dropped", operand
        case ast.Constant(bool() as value):
            yield "flag", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield "off by one", ast.Constant(value + 1)
            yield "off by one", ast.Constant(value - 1)
        case ast.Constant(float() as value):
            yield "constant", ast.Constant(round(2 * value, 6))
            yield "constant", ast.Constant(round(0.9 * value, 6))
        case ast.Constant(str() as value):
            for other in TEXTS.get(value, []):
                yield "mode", ast.Constant(other)
        case ast.Call():
            yield from of_call(node)
        case ast.Slice(lower, upper, step):
            for bound, put in (lower, 0), (upper, 1):
                if bound is not None:
                    bounds = [lower, upper]
                    bounds[put] = None
                    yield "bound dropped", ast.Slice(*bounds, step)
                    bounds[put] = ast.BinOp(bound, ast.Add(), ast.Constant(1))
                    yield "slice off by one", ast.Slice(*bounds, step)
        case ast.Tuple(parts) | ast.List(parts) if len(parts) > 1:
            yield "order", type(node)([parts[1], parts[0], *parts[2:]], node.ctx)
            yield "order", type(node)([*parts[:-2], parts[-1], parts[-2]], node.ctx)
        case ast.Name(name, ast.Load()) if name in variables and len(variables) > 1:
            other = variables[(variables.index(name) + 1) % len(variables)]
            yield "other variable", ast.Name(other, ast.Load())
        case ast.IfExp(_, body, orelse):
            yield "case dropped", body
            yield "case dropped", orelse
        case ast.If(_, body):
            yield "statement dropped", ast.Pass()
            yield "condition dropped", ast.If(ast.Constant(True), body, [])
        case ast.Assign([ast.Name(name)], value) if name in names_in(value):
            yield "statement dropped", ast.Pass()


def of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Calls with other arguments, of something else, or left out."""
    func, args, named = node.func, node.args, node.keywords
    if len(args) > 1 and not any(isinstance(arg, ast.Starred) for arg in args[:2]):
        yield "arguments swapped", ast.Call(func, [args[1], args[0], *args[2:]], named)
    for i in range(len(named)):
        yield "argument dropped", ast.Call(func, args, named[:i] + named[i + 1 :])
    if isinstance(func, ast.Attribute):
        inside = isinstance(func.value, ast.Name) and func.value.id in MODULES
        if not inside or args:
            yield "call dropped", args[0] if inside else func.value
        for other in NAMES.get(func.attr, []):
            yield "other function", ast.Call(ast.Attribute(func.value, other), args, named)
    elif args and isinstance(func, ast.Name) and func.id not in ("enumerate", "zip", "range"):
        yield "call dropped", args[0]


def names_in(node: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]


def mutants(assignment: str) -> list[Mutant]:
    """All that the engine makes of an assignment's solution, without the listed mistakes."""
    tree = ast.parse(proof.solution(assignment))
    listed = [c.apply(proof.solution(assignment)) for c in proof.changes(assignment)]
    seen = {ast.unparse(ast.parse(text)) for text in listed} | {ast.unparse(tree)}
    found = []
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        doc = ast.get_docstring(function) is not None
        stored = [n.id for n in ast.walk(function) if isinstance(n, ast.Name)
                  and isinstance(n.ctx, ast.Store)]  # fmt: skip
        variables = list(dict.fromkeys([a.arg for a in function.args.args] + stored))
        for statement in list(statements(function.body[doc:])):
            before = first_line(statement)
            for parent, field, at, node in places(statement, function):
                for operator, new in alternatives(node, variables):
                    put(parent, field, at, new)
                    text = ast.unparse(ast.fix_missing_locations(tree))
                    after = "pass" if isinstance(new, ast.Pass) else first_line(
                        new if node is statement else statement)  # fmt: skip
                    put(parent, field, at, node)
                    if text in seen or not compiles(text):
                        continue
                    seen.add(text)
                    words = f"{function.name}, {operator}: `{before}` became `{after}`"
                    found.append(Mutant(function.name, operator, words, text))
    return found


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        for part in ("body", "orelse"):
            yield from statements(getattr(statement, part, []))


def places(statement: ast.stmt, function: ast.FunctionDef) -> Iterator[tuple]:
    """(parent, field, position, node) of a statement and its parts, but no statement inside it."""
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, list) and any(part is statement for part in value):
                yield parent, field, value.index(statement), statement
    waiting = [statement]
    while waiting:
        parent = waiting.pop(0)
        for field, value in ast.iter_fields(parent):
            for at, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST) and not isinstance(node, ast.stmt):
                    yield parent, field, at if isinstance(value, list) else None, node
                    waiting.append(node)


def put(parent: ast.AST, field: str, at: int | None, node: ast.AST) -> None:
    if at is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[at] = node


def first_line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).partition("\n")[0]


def compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def chosen(assignment: str) -> list[Mutant]:
    """`EACH` of them by a fixed draw, every function in turn."""
    pools: dict[str, list[Mutant]] = {}
    made = mutants(assignment)
    random.Random(assignment).shuffle(made)
    for mutant in made:
        pools.setdefault(mutant.function, []).append(mutant)
    found = []
    while len(found) < EACH and any(pools.values()):
        for pool in pools.values():
            if pool and len(found) < EACH:
                found.append(pool.pop())
    return sorted(found, key=lambda mutant: mutant.words)
