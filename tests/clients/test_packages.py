"""Packages: can dpkg and apt install, replace and remove them on a union?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import MakeContainer
from tests.clients.rootfs import DEB_DIRECTORY

STATUS = "dpkg-query -W -f '${db:Status-Abbrev}' "


def test_dpkg_installs_removes_and_purges(make_container: MakeContainer) -> None:
    with make_container() as box:
        box.run(f"dpkg -i /{DEB_DIRECTORY}/hello_*.deb /{DEB_DIRECTORY}/manpages_*.deb")
        assert box.run("hello") == "Hello, world!\n"
        assert box.run(STATUS + "hello").strip() == "ii"
        assert box.run("dpkg --verify hello manpages") == ""
        box.run("dpkg -r hello && dpkg -P manpages")
        assert box.run("command -v hello || true") == ""
        assert box.run("dpkg --audit") == ""


def test_apt_installs_purges_and_installs_again(make_container: MakeContainer) -> None:
    apt = "apt-get -q -y -o APT::Sandbox::User=root -o Acquire::Retries=0 "
    with make_container() as box:
        for _ in range(2):
            box.run(f"{apt} install /{DEB_DIRECTORY}/tree_*.deb")
            assert "dpkg" in box.run("tree -L 1 /var/lib")
            box.run(f"{apt} purge tree")
        assert box.run("dpkg --audit; apt-get check -q -q") == ""


def test_dpkg_replaces_and_removes_packages_of_the_lower_layer(make_container: MakeContainer) -> None:
    """Unpacking over lower files is link(2) to a backup, rename(2) over the name, unlink(2); git has hard links."""
    with make_container() as box:
        box.run("cd /var/cache/apt/archives && dpkg -i coreutils_*.deb git_*.deb tzdata_*.deb")
        assert box.run("dpkg --verify coreutils git tzdata") == ""
        assert box.run("git --version").startswith("git version")
        box.run("dpkg -P --force-depends make git && dpkg --audit")
        assert box.run("command -v git make || true") == ""
        assert box.run("find / -xdev -name '*.dpkg-new' -o -xdev -name '*.dpkg-tmp'") == ""


@pytest.mark.parametrize("options", [{"fsync": "strict"}, {"passthrough": "off"}], ids=["strict", "served"])
def test_install_with_options(options: dict[str, str | None], make_container: MakeContainer) -> None:
    with make_container(options=options) as box:
        box.run(f"dpkg -i /{DEB_DIRECTORY}/hello_*.deb")
        assert box.run("hello") == "Hello, world!\n"


@pytest.mark.parametrize("scratch", ["xfs", "btrfs", "tmpfs"], indirect=True)
def test_the_upper_is_on_another_filesystem(scratch: Path, make_container: MakeContainer) -> None:
    """The lower layer is on ext4: inode numbers come from two filesystems, and no data can be shared between them."""
    with make_container() as box:
        box.run(f"dpkg -i /{DEB_DIRECTORY}/hello_*.deb && hello && dpkg -P hello")
        box.run("cd /var/cache/apt/archives && dpkg -i coreutils_*.deb && dpkg --verify coreutils")
        box.run("cp -a /usr/share/perl /srv/perl && diff -r --no-dereference /usr/share/perl /srv/perl")
        box.run("chown -R 1:1 /srv/samples && rm -rf /etc/alternatives /usr/share/doc && mkdir /usr/share/doc")
