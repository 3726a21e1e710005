"""libnftables, with the program nft as the judge."""

from __future__ import annotations

import os
import subprocess
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
