"""libnftables, with the program nft as the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sampan.kernel.nft import Nft, NftError, exists
from tests.network.lab import own_namespace


@pytest.fixture
def nft() -> Iterator[Nft]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_namespace(), Nft() as context:
        yield context


def test_transactions(nft: Nft) -> None:
    nft.run("table inet smpf_t {\n set s { type ipv4_addr; }\n}\nadd element inet smpf_t s { 192.0.2.1 }\n")
    assert "192.0.2.1" in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    assert exists(nft, "inet", "smpf_t") and not exists(nft, "inet", "nosuch")
    with pytest.raises(NftError, match="No such file or directory"):
        nft.run(
            "delete element inet smpf_t s { 192.0.2.1 }\ndelete element inet smpf_t nosuch { 192.0.2.1 }\n"
        )
    assert "192.0.2.1" in nft.run("list set inet smpf_t s"), "nothing of a refused transaction is done"


def test_json(nft: Nft) -> None:
    nft.run("add table ip smpf_j")
    assert [item["table"]["name"] for item in nft.query("list tables")] == ["smpf_j"]


def test_errors_point_at_the_place(nft: Nft) -> None:
    with pytest.raises(NftError, match="syntax error"):
        nft.run("add nonsense")


def test_a_closed_context_says_so(nft: Nft) -> None:
    nft.close()
    with pytest.raises(NftError, match="closed"):
        nft.run("list tables")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_process_with_more_descriptors_than_select_knows() -> None:
    """libnftables waits by select(2): with a higher descriptor the C library would end the process."""
    code = (
        "import os, resource\n"
        "from sampan.kernel.namespaces import CLONE_NEWNET, unshare\n"
        "from sampan.kernel.nft import Nft, NftError, exists\n"
        "_soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "many = [os.open('/', os.O_PATH) for _ in range(1500)]\n"
        "unshare(CLONE_NEWNET)\n"
        "with Nft() as nft:\n"
        "    nft.run('add table inet t')\n"
        "    assert exists(nft, 'inet', 't') and not exists(nft, 'inet', 'u')\n"
        "    found = nft.query('list tables')\n"
        "    assert [item['table']['name'] for item in found] == ['t'], found\n"
        "for fd in many:\n"
        "    os.fstat(fd)  # none of them was closed\n"
        "try:\n"
        "    nft.run('list tables')\n"
        "except NftError as failure:\n"
        "    print(failure)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("the nftables context is closed\n", 0), done.stderr
