"""What runs within WebAssembly, and is imported nowhere else: a program of which nothing comes out but what it prints.

`toolkit.python` makes a component of it. Whatever a program may import has to be imported here, while that is made:
afterwards there are no files.
"""

import __future__  # noqa: F401

import _strptime  # noqa: F401
import array  # noqa: F401
import base64  # noqa: F401
import bisect  # noqa: F401
import builtins
import calendar  # noqa: F401
import cmath  # noqa: F401
import collections.abc  # noqa: F401
import contextlib  # noqa: F401
import copy  # noqa: F401
import csv  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import difflib  # noqa: F401
import enum  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import hashlib  # noqa: F401
import heapq  # noqa: F401
import io
import itertools  # noqa: F401
import json  # noqa: F401
import math  # noqa: F401
import numbers  # noqa: F401
import operator  # noqa: F401
import os
import pprint  # noqa: F401
import random
import re  # noqa: F401
import statistics  # noqa: F401
import string  # noqa: F401
import struct  # noqa: F401
import sys
import textwrap  # noqa: F401
import time
import types
import typing  # noqa: F401
import unicodedata  # noqa: F401

import wit_world

LONGEST_OUTPUT = 4000
"""Characters after which a program is ended."""
PROGRAM = "<program>\ud800"
"""The name of its file, which no file can have: Python opens one to show a line with a mistake, if it can."""
BUILT_IN = ("BuiltinImporter", "FrozenImporter")


class Full(BaseException):
    """A program has printed all that it may."""


class Output(io.TextIOBase):
    """What a program prints."""

    def __init__(self):
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text[:LONGEST_OUTPUT]
        if len(self.text) >= LONGEST_OUTPUT:
            raise Full
        return len(text)


def absent(reason: str):
    """A function that says why there is nothing of its kind."""

    def refuse(*_, **__):
        raise OSError(reason)

    return refuse


def shut() -> None:
    """Has what asks for files, a clock or a person say that there are none. WebAssembly has none in any case, but ends
    a program that asks, and what it has printed is lost."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") in BUILT_IN]
    builtins.open = io.open = no_files = absent("there are no files and no other programs here")
    builtins.input = absent("there is nobody to ask here")
    for module, stays, instead in (
        (os, ("fspath",), no_files),
        (time, ("asctime", "mktime", "strftime"), absent("there is no clock here")),
    ):
        for name, function in vars(module).copy().items():
            if type(function) is types.BuiltinFunctionType and name not in stays:
                setattr(module, name, instead)


def mistake(error: BaseException) -> str:
    """What an error says, and the line of the program that it comes from."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == PROGRAM:
            line = at.tb_lineno
        at = at.tb_next
    try:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:
        said = ""
    return f"{type(error).__name__}{f' in line {line}' if line else ''}: {said}".rstrip(": ")[:LONGEST_OUTPUT]


class WitWorld(wit_world.WitWorld):
    """What the component offers to the host."""

    def run(self, code: str) -> str:
        """What a program prints, and the error that it ends with."""
        shut()
        random.seed(0)  # equal programs print the same
        sys.stdout = sys.stderr = output = Output()
        said = ""
        try:
            exec(compile(code, PROGRAM, "exec"), {"__name__": "__main__"})
        except Full:
            pass
        except SystemExit as ended:
            said = ended.code if isinstance(ended.code, str) else ""
        except BaseException as error:  # whatever it is, it is the program's
            said = mistake(error)
        return (output.text + said).encode("utf-8", "replace").decode()
