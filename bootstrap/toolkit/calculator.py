"""A calculator: sums, products and powers of numbers as people write them, worked out exactly."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from ratchet.bootstrap.worlds.world import Tool

LONGEST = 200
"""Characters of an expression."""
LARGEST = 1024
"""Bits of a numerator or a denominator; whatever needs more is too large."""
DIGITS = 15
"""Digits that are known of a root, or of a power that is rounded."""
SIGNIFICANT = 12
"""Digits of an answer that is no whole number."""
WRITTEN = {"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"}
"""Signs that people write, and what Python calls them."""


_TOO_LARGE = "it is too large"
_NUMBER = re.compile(r"(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?(\d+))?")


class Incalculable(ValueError):
    """An expression that has no answer; the message says why."""


def calculate(expression: str) -> str:
    """What an expression comes to: a whole number in full, another one in twelve significant digits at most; or why it
    comes to nothing."""
    text = expression.strip()[:LONGEST]
    for sign, name in WRITTEN.items():
        text = text.replace(sign, name)
    try:
        return written(_value(ast.parse(text, mode="eval").body, text))
    except Incalculable as error:
        return f"cannot be calculated: {error}"
    except OverflowError:
        return f"cannot be calculated: {_TOO_LARGE}"
    except ZeroDivisionError:
        return "cannot be calculated: it divides by zero"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "cannot be calculated: this is no expression"


def written(value: Fraction) -> str:
    """A number as people write it."""
    if value.denominator == 1:
        return str(value.numerator)
    places = max(SIGNIFICANT - 1 - math.floor(math.log10(abs(value.numerator)) - math.log10(value.denominator)), 1)
    scaled = round(value * 10**places)
    digits = str(abs(scaled)).rjust(places + 1, "0")
    return f"{'-' * (scaled < 0)}{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0:
            raise Incalculable("a root of a negative number")
        return _real(float(base) ** float(exponent))
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) <= LARGEST or abs(base) in (0, 1):
        return base**exponent.numerator
    if base.denominator == 1 and exponent > 0:
        raise Incalculable(_TOO_LARGE)
    with localcontext(prec=50, traps=[]):  # such as interest over many months: the exact fraction is longer
        value = (Decimal(base.numerator) / base.denominator) ** exponent.numerator
    if value.is_finite() and value and abs(value.adjusted()) < DIGITS:
        return Fraction(f"{value:.{DIGITS}g}")
    raise Incalculable("it is too close to zero" if value.is_finite() and value.adjusted() < 0 else _TOO_LARGE)


def _real(value: float) -> Fraction:
    """A number of which DIGITS are known."""
    if not math.isfinite(value):
        raise Incalculable(_TOO_LARGE)
    return Fraction(f"{value:.{DIGITS}g}")


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise Incalculable("a root of a negative number")
    exact = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    return exact if exact * exact == value else _real(math.sqrt(value))


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > LONGEST:
        raise Incalculable("it is rounded to no number of places")
    scale = Fraction(10) ** places.numerator
    return Fraction(math.floor(abs(value) * scale + Fraction(1, 2)), 1) / scale * (-1 if value < 0 else 1)


_OPERATORS: Mapping[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, tuple[Callable[..., Fraction], int, int]] = {
    "abs": (abs, 1, 1),
    "max": (max, 2, LONGEST),
    "min": (min, 2, LONGEST),
    "round": (_round, 1, 2),
    "sqrt": (_root, 1, 1),
}
"""By name, a function, and how many numbers it takes at least and at most. Halves are rounded away from zero."""


def _number(text: str) -> Fraction:
    """A number as it is written, none of whose digits is lost."""
    form = _NUMBER.fullmatch(text)
    if not form:
        raise Incalculable(f"{text} is no number")
    if len(form[1] or "") > 3:
        raise Incalculable(_TOO_LARGE)
    return Fraction(text)


def _value(node: ast.expr, text: str) -> Fraction:
    """The number that a part of an expression comes to, of which `text` is the whole."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            found = _number(ast.get_source_segment(text, node))
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _OPERATORS:
            found = _OPERATORS[type(sign)](_value(inner, text))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            found = _OPERATORS[type(sign)](_value(left, text), _value(right, text))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            function, least, most = _FUNCTIONS[name]
            if not least <= len(given) <= most:
                raise Incalculable(f"{name} takes another number of numbers")
            found = function(*(_value(one, text) for one in given))
        case _:
            raise Incalculable("it holds more than numbers, + - * / // % **, brackets, and " + ", ".join(_FUNCTIONS))
    if max(found.numerator.bit_length(), found.denominator.bit_length()) > LARGEST:
        raise Incalculable(_TOO_LARGE)
    return found


def _run(arguments: Mapping[str, Any]) -> str:
    return calculate(arguments["expression"])


CALCULATE = Tool(
    "calculate",
    "Works out an expression such as (3 + 4.5) * 2 ** 8 / sqrt(16).",
    {
        "type": "object",
        "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": LONGEST}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    _run,
)
