"""What is compiled: a generated project of a few hundred C files that share their headers, with a makefile."""

from pathlib import Path

_HEADERS = 40
_HEADERS_EACH = 10
_FUNCTIONS = 30

_FUNCTION = """\
static inline unsigned h{header}_{index}(unsigned value)
{{
    return (value ^ {header}u) * {odd}u + {index}u;
}}
"""

_SOURCE = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
{includes}
unsigned part{index}(unsigned value)
{{
    char text[32];
    snprintf(text, sizeof text, "%u", value);
    value += (unsigned)strlen(text);
{calls}    return value;
}}
"""

_MAIN = """\
#include <stdio.h>
{declarations}
int main(void)
{{
    unsigned value = 1;
{calls}    printf("%u\\n", value);
    return 0;
}}
"""

_MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard *.c))
all: $(objects)
\t$(CC) -o $@ $(objects)
%.o: %.c $(wildcard include/*.h)
\t$(CC) -O1 -Iinclude -c -o $@ $<
"""

_MASK = 0xFFFFFFFF


def make_project(directory: Path, count: int) -> None:
    """Writes `count` C files and their headers, a makefile, and the file `expected`: what the program `all` prints."""
    (directory / "include").mkdir(parents=True)
    for header in range(_HEADERS):
        text = "#pragma once\n" + "".join(_function(header, index) for index in range(_FUNCTIONS))
        (directory / "include" / f"h{header}.h").write_text(text, encoding="ascii")
    value = 1
    for part in range(count):
        (directory / f"part{part}.c").write_text(_part(part), encoding="ascii")
        value = _value_of_part(part, value)
    declarations = "".join(f"extern unsigned part{part}(unsigned);\n" for part in range(count))
    calls = "".join(f"    value = part{part}(value);\n" for part in range(count))
    (directory / "main.c").write_text(_MAIN.format(declarations=declarations, calls=calls), encoding="ascii")
    (directory / "Makefile").write_text(_MAKEFILE, encoding="ascii")
    (directory / "expected").write_text(f"{value}\n", encoding="ascii")


def _function(header: int, index: int) -> str:
    return _FUNCTION.format(header=header, index=index, odd=_factor(header, index))


def _factor(header: int, index: int) -> int:
    return 2 * (header * _FUNCTIONS + index) + 1


def _headers_of(part: int) -> list[int]:
    return [(part * 7 + step * 3) % _HEADERS for step in range(_HEADERS_EACH)]


def _part(part: int) -> str:
    includes = "".join(f'#include "h{header}.h"\n' for header in _headers_of(part))
    calls = "".join(f"    value = h{header}_{part % _FUNCTIONS}(value);\n" for header in _headers_of(part))
    return _SOURCE.format(index=part, includes=includes, calls=calls)


def _value_of_part(part: int, value: int) -> int:
    """What the compiled part returns: C's unsigned arithmetic modulo 2^32."""
    value = value + len(str(value)) & _MASK
    for header in _headers_of(part):
        index = part % _FUNCTIONS
        value = (value ^ header) * _factor(header, index) + index & _MASK
    return value
