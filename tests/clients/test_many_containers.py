"""Many containers: do ten run at once, does one that is killed leave nothing, and does `prune` find nothing in its way?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import podman
from tests.clients.command import Finished

PROGRAMS = ("sh", "cat", "ls", "rm", "sleep", "true")

USE = r"""
started=
podman import -q image.tar tiny >/dev/null
for number in 1 2 3 4 5 6 7 8 9 10; do
    run --detach --name c$number tiny sh -c "echo $number > /data/number; rm /etc/motd; exec sleep 1000" >/dev/null &
    started="$started $!"
done
for job in $started; do wait $job; done
podman ps -q | wc -l
for number in 1 2 3 4 5 6 7 8 9 10; do podman cp c$number:/data/number - | tar -xO; done | tr '\n' ' '
echo

kill -9 "$(podman inspect --format '{{.State.Pid}}' c1)"
podman wait c1
kill -9 "$(podman inspect --format '{{.State.ConmonPid}}' c2)"
podman rm -f -t 0 c2 >/dev/null

echo put > put
podman cp put c3:/data/put
podman cp c3:/data/. got
ls got | tr '\n' ' '
podman exec c3 cat /data/put
podman diff c3 | LC_ALL=C sort | tr '\n' ' '

podman start c1 >/dev/null
podman exec c1 cat /data/number
podman restart -t 0 c4 >/dev/null
podman commit -q c5 five >/dev/null
podman kill c6 c7 c8 >/dev/null
run --rm five cat /data/number
podman rm -f -t 0 -a >/dev/null
podman system prune -a -f --volumes >/dev/null
podman images -q | wc -l
"""

EXPECTED = """10
1 2 3 4 5 6 7 8 9 10\x20
137
file number put put
A /data/number A /data/put C /data C /etc D /etc/motd 1
5
0
"""


@pytest.mark.parametrize("user", ["root", "rootless"])
def test_ten_containers(user: str, tmp_path: Path, scratch: Path) -> None:
    files = [podman.make_image(tmp_path, PROGRAMS)]
    run: Callable[[], Finished] = (
        (lambda: podman.as_root(scratch, USE, files)) if user == "root" else (lambda: podman.rootless(USE, files))
    )
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED, done.stderr
