"""Expressions as people write them, against Python's own arithmetic."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.toolkit.calculator import CALCULATE, LONGEST, calculate


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("1+1", "2"),
        ("0.1 + 0.2", "0.3"),
        ("(3 + 4.5) * 2 ** 8 / sqrt(16)", "480"),
        ("2^10 − 3×4 ÷ 6", "1022"),
        ("-2 ** 2", "-4"),
        ("10 / 4", "2.5"),
        ("1/3", "0.333333333333"),
        ("2/3", "0.666666666667"),
        ("-1/3*10**6", "-333333.333333"),
        ("1/7e20", "0.00000000000000000000142857142857"),
        ("7 // 2 + 7 % 4", "6"),
        ("sqrt(2)", "1.41421356237"),
        ("sqrt(1/9)", "0.333333333333"),
        ("2 ** 0.5", "1.41421356237"),
        ("2 ** -2", "0.25"),
        ("max(1, 2.5, -3) - min(4, 5)", "-1.5"),
        ("round(2.675, 2)", "2.68"),
        ("round(-2.5)", "-3"),
        ("abs(-3)", "3"),
        ("123456789 * 987654321", "121932631112635269"),
        ("10**18 + 1/10", "1000000000000000000.1"),
        ("1234567890.123456789123 - 1234567890", "0.123456789123"),
        ("1.5e3 + 1_000 + .5", "2500.5"),
        (" 5 ", "5"),
        ("1000*(1+0.05/12)**(12*30)", "4467.74431401"),
        ("1.005**360", "6.02257521226"),
        ("1.01**-365", "0.0264666253255"),
        ("(-1.5)**61", "-55152703075.4"),
        ("0**2000", "0"),
        ("(-1)**100001", "-1"),
    ],
)
def test_what_expressions_come_to(expression, answer):
    assert calculate(expression) == CALCULATE.run({"expression": expression}) == answer


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1/0", "divides by zero"),
        ("5 % 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("9**9**9", "too large"),
        ("2**5000", "too large"),
        ("(9**1000)*(9**1000)", "too large"),
        ("1e999", "too large"),
        ("1e-999999", "too large"),
        ("10**100000.5", "too large"),
        ("1.05**5000", "too large"),
        ("1.05**10**40", "too large"),
        ("0.5**1100", "too close to zero"),
        ("2**-5000", "too close to zero"),
        ("0.5**10**40", "too close to zero"),
        ("sqrt(-1)", "a root of a negative number"),
        ("(-8) ** 0.5", "a root of a negative number"),
        ("round(1, 0.5)", "no number of places"),
        ("round(1, 10**9)", "no number of places"),
        ("sqrt()", "sqrt takes another number of numbers"),
        ("max(1)", "max takes another number of numbers"),
        ("__import__('os').system('ls')", "holds more than numbers"),
        ("(1).__class__", "holds more than numbers"),
        ("open('x')", "holds more than numbers"),
        ("sqrt", "holds more than numbers"),
        ("'a' * 3", "holds more than numbers"),
        ("[1] * 3", "holds more than numbers"),
        ("True + 1", "holds more than numbers"),
        ("1j * 1j", "holds more than numbers"),
        ("1 if 2 else 3", "holds more than numbers"),
        ("max(*[1, 2], 3)", "holds more than numbers"),
        ("0x10", "0x10 is no number"),
        ("1e400", "too large"),
        ("1 +", "no expression"),
        ("", "no expression"),
        ("what is 2 + 2?", "no expression"),
        ("1\x00", "no expression"),
        ("(" * LONGEST, "no expression"),
        ("-" * (LONGEST - 1) + "1", ""),
        ("9" * LONGEST, ""),
    ],
)
def test_what_has_no_answer_says_why_in_a_line(expression, reason):
    said = calculate(expression)
    assert "\n" not in said and len(said) <= LONGEST
    assert not reason or (said.startswith("cannot be calculated: ") and reason in said)


@given(st.recursive(st.integers(0, 10**6).map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
    lambda parts: f"({''.join(parts)})"), max_leaves=8))  # fmt: skip
def test_sums_and_quotients_are_those_of_fractions(expression):
    try:
        want = eval(_in_fractions(expression))
    except ZeroDivisionError:
        want = None
    said = calculate(expression)
    if len(expression) > LONGEST or want is None:
        return
    got = Fraction(said)
    assert got == want if want.denominator == 1 else abs(got - want) <= abs(want) / 10**11


def _in_fractions(expression: str) -> str:
    """The same with every number as a fraction."""
    return re.sub(r"\d+", lambda m: f"Fraction({m[0]})", expression)


@given(st.text("0123456789.+-*/%^() ,abcdefghijklmnopqrstuvwxyz_'[]{}\n\t", max_size=60))
def test_any_text_has_an_answer_or_a_reason(text):
    assert calculate(text)
