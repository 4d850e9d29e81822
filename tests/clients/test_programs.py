"""Programs: do a compiler, git and sqlite work in a container on a union?"""

from __future__ import annotations

import pytest

from tests.clients.conftest import MakeContainer
from tests.support.mounts import Options

BOTH_PATHS: list[Options] = [{}, {"passthrough": "off"}]
"""Options of mounts whose file data go past the server, and through it."""

PROJECT = r"""
mkdir -p /srv/project && cd /srv/project
printf '#ifndef SUM_H\n#define SUM_H\nint part(int);\n' > sum.h
for number in $(seq 1 24); do
    printf '#include "sum.h"\nint part%d(int x) { return x + %d; }\n' $number $number > part$number.c
    printf 'int part%d(int);\n' $number >> sum.h
done
printf '#endif\n' >> sum.h
{
    printf '#include <stdio.h>\n#include "sum.h"\nint main(void) { int sum = 0;\n'
    for number in $(seq 1 24); do printf 'sum += part%d(1);\n' $number; done
    printf 'printf("%%d\\n", sum); return 0; }\n'
} > main.c
cat > Makefile <<'END'
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))
sum: $(OBJECTS) ; $(CC) -o $@ $^
%.o: %.c sum.h ; $(CC) -O1 -g -c -o $@ $<
clean: ; rm -f sum $(OBJECTS)
END
"""

LIBRARY = r"""
cd /srv/project
printf 'int answer(void) { return 42; }\n' > answer.c
printf '#include <stdio.h>\nint answer(void);\nint main(void) { printf("%%d\\n", answer()); return 0; }\n' > use.c
gcc -shared -fPIC -o libanswer.so answer.c && gcc -o use use.c -L. -lanswer -Wl,-rpath,/srv/project
./use
ar rcs libanswer.a && gcc -static -o static use.c answer.c && ./static
"""

COMPILE_PYTHON = "import compileall, json; assert compileall.compile_dir(json.__path__[0], quiet=1, force=True)"

MANY_FILES = r"""
git init -q /srv/repository && cd /srv/repository
for directory in $(seq 1 40); do
    mkdir -p src/$directory
    for number in $(seq 1 50); do echo "file $directory/$number" > src/$directory/$number.txt; done
done
git add . && git commit -q -m first
git checkout -q -b second
for directory in $(seq 1 20); do echo changed >> src/$directory/1.txt; rm -r src/$directory/2.txt; done
git mv src/40 src/moved
git add -A && git commit -q -m second
"""

SWITCH = r"""
cd /srv/repository
git checkout -q master 2>/dev/null || git checkout -q main
test -z "$(git status --porcelain)"
test "$(find src -type f | wc -l)" = 2000
git checkout -q second
test -z "$(git status --porcelain)"
test "$(find src -type f | wc -l)" = 1980
git fsck --full --strict --no-progress 2>&1
git gc -q && git fsck --full --no-progress
git clone -q --no-hardlinks /srv/repository /srv/clone && git clone -q /srv/repository /srv/linked
git worktree add -q /srv/worktree HEAD && diff -r --exclude=.git src /srv/worktree/src
git log --oneline | wc -l
"""

WRITE_DATABASE = r"""
import sqlite3, sys
path, mode, name = sys.argv[1:]
database = sqlite3.connect(path, timeout=60, isolation_level=None)
assert database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
for number in range(150):
    database.execute("begin immediate")
    database.execute("insert into rows(name, number, padding) values (?, ?, ?)", (name, number, name * 200))
    database.execute("update counter set value = value + 1")
    if number % 10 == 9:
        database.execute("delete from rows where name = ? and number < ?", (name, number - 50))
    database.execute("commit")
database.close()
"""

CHECK_DATABASE = r"""
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
print(database.execute("select value from counter").fetchone()[0])
database.execute("vacuum")
assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
"""

MAKE_DATABASE = r"""
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute(f"pragma journal_mode={sys.argv[2]}")
database.execute("create table rows(name text, number integer, padding text)")
database.execute("create index by_name on rows(name, number)")
database.execute("create table counter(value integer)")
database.execute("insert into counter values (0)")
database.commit()
"""


@pytest.mark.parametrize("options", BOTH_PATHS, ids=["auto", "served"])
def test_compile_and_run(options: Options, make_container: MakeContainer) -> None:
    with make_container(options=options) as box:
        box.run(PROJECT + "make -s -j2 sum")
        assert box.run("/srv/project/sum") == f"{24 + sum(range(1, 25))}\n"
        assert box.run("cd /srv/project && make sum") == "make: 'sum' is up to date.\n"
        box.run("cd /srv/project && touch sum.h && make -s -j2 sum && ./sum && make -s clean && make -s -j2")
        assert box.run(LIBRARY) == "42\n42\n"
        box.python(COMPILE_PYTHON)


def test_git(make_container: MakeContainer) -> None:
    with make_container() as box:
        box.run(MANY_FILES)
        said = box.run(SWITCH)
        assert "error" not in said
        assert "missing" not in said


@pytest.mark.parametrize("options", BOTH_PATHS, ids=["auto", "served"])
def test_sqlite_in_journal_and_wal_mode(options: Options, make_container: MakeContainer) -> None:
    """Two processes write one database; in WAL mode they share memory through a mapped file."""
    with make_container(options=options) as box:
        for mode in ("delete", "truncate", "wal"):
            path = f"/srv/{mode}.db"
            box.python(MAKE_DATABASE, path, mode)
            box.run(
                'python3 -c "$1" "$2" "$3" one & one=$!; python3 -c "$1" "$2" "$3" two & wait $one; wait $!',
                WRITE_DATABASE, path, mode,
            )  # fmt: skip
            assert box.python(CHECK_DATABASE, path) == "300\n"
        assert box.run("cd /srv && ls *.db*").split() == ["delete.db", "truncate.db", "wal.db"]
