"""PTX text -> a `Program`: registers with their declared widths, instructions, labels, shared variables.

Only syntax lives here; what an opcode means is decided in the table of `opcodes`. The subset is what LLVM and
inline assembly produce: one kernel, declarations, labels, nested `{ }` scopes. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import UnsupportedInstruction


@dataclass(frozen=True, slots=True)
class Register:
    """A declared register; a predicate has one bit."""

    name: str
    bits: int

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Immediate:
    """A literal, kept as text because its meaning depends on the width of the instruction."""

    text: str


@dataclass(frozen=True, slots=True)
class Special:
    """A read-only register of the machine, such as `%tid.x`."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """The name of a label, a parameter or a variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Sink:
    """`_`: a result nobody wants."""


@dataclass(frozen=True, slots=True)
class Negated:
    """`!%p` as a source operand."""

    register: Register


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b}`: the elements of a vector access, or the parts of a wider register."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`d|p`: a result and a predicate that comes with it."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`."""

    base: Operand
    offset: int


Operand = Register | Immediate | Special | Symbol | Sink | Negated | Vector | Pair | Address


@dataclass(frozen=True, slots=True)
class Guard:
    """`@%p` or `@!%p` in front of an instruction."""

    register: Register
    negated: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; `text` is the source, for messages."""

    text: str
    opcode: str
    operands: tuple[Operand, ...]
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A kernel parameter; `kind` is the letter of its PTX type (b, u, s or f)."""

    name: str
    kind: str
    bits: int


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel. `shared` holds the byte size of each shared variable, None for the dynamic one."""

    name: str
    threads: int
    parameters: tuple[Parameter, ...]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    shared: dict[str, int | None]


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_LABEL = re.compile(r"([\w$]+)\s*:(?!:)")
_SHARED = re.compile(r"^\s*(?:\.(?:extern|visible)\s+)?(\.shared\s[^;]*);", re.M)
_SHARED_BYTES = re.compile(r"\.shared\s+(?:\.align\s+\d+\s+)?\.b8\s+([\w$]+)\s*\[\s*(\d*)\s*\]")
_PARAMETER = re.compile(r"\.param\s+\.([busf])(8|16|32|64)\s+(?:[.\w\s]*\s)?([\w$]+)")
_GUARD = re.compile(r"@(!?)([%\w$]+)\s+(.*)", re.S)
_NUMBER = re.compile(r"-?\d[\w.]*")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_SPECIAL = re.compile(r"%(?:n?tid|n?ctaid|laneid|warpid|nwarpid|smid|gridid|clock|lanemask|dynamic)\b")


def parse(text: str) -> Program:
    """Read the one kernel of a PTX module."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^[ \t]*\.loc\b[^\n]*", "", text, flags=re.M)
    entries = list(_ENTRY.finditer(text))
    if len(entries) != 1:
        raise UnsupportedInstruction(f"a PTX module with one .entry is wanted, got {len(entries)}")
    entry = entries[0]
    threads = re.search(r"\.reqntid\s+(\d+)((?:\s*,\s*1)*)(?=\s|$)", entry[3])
    if threads is None:
        raise UnsupportedInstruction(f"{entry[1]}: .reqntid n is wanted, got {entry[3].strip()!r}")
    shared = dict(_shared_variable(declaration) for declaration in _SHARED.findall(text))
    reader = _BodyReader()
    for statement in _statements(text, entry.end()):
        reader.read(statement)
    return Program(
        name=entry[1],
        threads=int(threads[1]),
        parameters=tuple(_parameter(line) for line in entry[2].split(",") if line.strip()),
        instructions=tuple(reader.instructions),
        labels=reader.labels,
        shared=shared,
    )


def _shared_variable(declaration: str) -> tuple[str, int | None]:
    match = _SHARED_BYTES.fullmatch(declaration.strip())
    if match is None:
        raise UnsupportedInstruction(f"shared variable {declaration.strip()!r}")
    return match[1], int(match[2]) if match[2] else None


def _parameter(declaration: str) -> Parameter:
    match = _PARAMETER.fullmatch(declaration.strip())
    if match is None:
        raise UnsupportedInstruction(f"parameter {declaration.strip()!r}")
    return Parameter(match[3], match[1], int(match[2]))


def _statements(text: str, start: int) -> Iterator[str]:
    """Labels with their colon, scope braces, and statements without their semicolon, up to the closing brace.

    A brace that opens a statement opens a scope; one inside a statement belongs to a vector operand.
    """
    depth, position = 1, start
    while depth:
        while position < len(text) and text[position].isspace():
            position += 1
        if position >= len(text):
            raise UnsupportedInstruction("the body of the kernel does not end")
        if text[position] in "{}":
            depth += 1 if text[position] == "{" else -1
            end = position + 1
        elif label := _LABEL.match(text, position):
            end = label.end()
        else:
            end = text.find(";", position) + 1
            if not end:
                raise UnsupportedInstruction(f"no semicolon after {text[position : position + 60]!r}")
        yield " ".join(text[position:end].rstrip(";").split())
        position = end


class _BodyReader:
    """Collects instructions and labels while tracking which registers each scope declares."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self._scopes: list[dict[str, Register]] = [{}]
        self._opened = 0

    def read(self, statement: str) -> None:
        """Take one statement."""
        if statement == "{":
            self._opened += 1
            self._scopes.append({})
        elif statement == "}":
            self._scopes.pop()
        elif statement.endswith(":"):
            self._label(statement[:-1].strip())
        elif statement.startswith(".reg"):
            self._declare(statement)
        elif statement.startswith("."):
            # Local memory may be declared and never used; an instruction that names it is refused later on.
            if not re.match(r"\.(pragma|local|shared)\b", statement):
                raise UnsupportedInstruction(f"directive {statement!r}")
        elif statement:
            self.instructions.append(self._instruction(statement))

    def _label(self, name: str) -> None:
        if name in self.labels:
            raise UnsupportedInstruction(f"label {name} stands twice")
        self.labels[name] = len(self.instructions)

    def _declare(self, statement: str) -> None:
        match = re.fullmatch(r"\.reg\s+\.(pred|[busf](8|16|32|64))\s+(.*)", statement)
        if match is None:
            raise UnsupportedInstruction(f"declaration {statement!r}")
        bits = int(match[2] or 1)
        # A name inside a scope is another register than the same name outside.
        suffix = f"@{self._opened}" if len(self._scopes) > 1 else ""
        for item in match[3].split(","):
            family = re.fullmatch(r"\s*([%\w$]+)(?:<(\d+)>)?\s*", item)
            if family is None:
                raise UnsupportedInstruction(f"declaration {statement!r}")
            names = [family[1]] if family[2] is None else [f"{family[1]}{i}" for i in range(int(family[2]))]
            self._scopes[-1].update((name, Register(name + suffix, bits)) for name in names)

    def _register(self, name: str) -> Register | None:
        return next((scope[name] for scope in reversed(self._scopes) if name in scope), None)

    def _instruction(self, text: str) -> Instruction:
        rest, guard = text, None
        if match := _GUARD.fullmatch(text):
            register = self._register(match[2])
            if register is None or register.bits != 1:
                raise UnsupportedInstruction(f"{text}: guard {match[2]} is no predicate")
            guard, rest = Guard(register, match[1] == "!"), match[3]
        opcode, _, operands = rest.partition(" ")
        return Instruction(text, opcode, tuple(self._operand(item, text) for item in _split(operands)), guard)

    def _operand(self, item: str, text: str) -> Operand:
        if item == "_":
            return Sink()
        if item.startswith("{") and item.endswith("}"):
            return Vector(tuple(self._operand(part, text) for part in _split(item[1:-1])))
        if match := _ADDRESS.fullmatch(item):
            return Address(self._operand(match[1], text), int(match[2] or "0", 0))
        if item.count("|") == 1:
            first, second = item.split("|")
            return Pair(self._operand(first.strip(), text), self._operand(second.strip(), text))
        if item.startswith("!") and (register := self._register(item[1:])):
            return Negated(register)
        if register := self._register(item):
            return register
        if _NUMBER.fullmatch(item):
            return Immediate(item)
        if _SPECIAL.match(item):
            return Special(item)
        if re.fullmatch(r"[A-Za-z_$][\w$]*", item):
            return Symbol(item)
        raise UnsupportedInstruction(f"{text}: operand {item!r} is not declared or not understood")


def _split(operands: str) -> list[str]:
    """Split at the commas that stand outside of braces and brackets."""
    parts = re.split(r",(?![^{\[]*[}\]])", operands)
    return [part.strip() for part in parts if part.strip()]
