"""What the stock client shows of pushes, pulls and removed names, beside what dockerd says."""

from __future__ import annotations

import json

from tests.conftest import Daemon

NO_DIGEST = "sha256:" + "0" * 64


def test_pushes(sampand: Daemon, busybox: str, registry: str) -> None:
    repository = f"{registry}/words/bb"
    for tag in ("1", "2"):
        sampand.docker("tag", busybox, f"{repository}:{tag}")
    try:
        lines = sampand.docker("push", "-a", repository).stdout.splitlines()
        assert lines[0] == f"The push refers to repository [{repository}]"
        assert [line.split(":")[0] for line in lines if ": digest: sha256:" in line] == ["1", "2"]
        absent = sampand.docker("push", repository, check=False)
        assert (absent.returncode, absent.stdout.splitlines()[-1]) == (
            1,
            f"The push refers to repository [{repository}]",
        )
        assert absent.stderr.startswith(f"tag does not exist: {repository}:latest\n")
        nothing = sampand.docker("push", f"{registry}/words/no:1", check=False)
        assert nothing.stderr.startswith(
            f"An image does not exist locally with the tag: {registry}/words/no\n"
        )
        status, _, body = sampand.api("POST", f"/images/{repository}@{NO_DIGEST}/push")
        assert status == 400 and "cannot push a digest reference" in json.loads(body)["message"]
        unknown = sampand.docker("pull", "-a", f"{registry}/words/no", check=False)
        assert f"repository {registry}/words/no not found: name unknown" in unknown.stderr
    finally:
        sampand.docker("rmi", f"{repository}:1", f"{repository}:2", check=False)


def test_a_digest_leaves_and_the_tags_stay(sampand: Daemon, registry: str) -> None:
    repository = f"{registry}/words/own"
    sampand.docker("build", "-t", "words-own", "-", input="FROM scratch\nLABEL words=own\n")
    identity = sampand.docker("image", "inspect", "-f", "{{.Id}}", "words-own").stdout.strip()
    sampand.docker("tag", "words-own", f"{repository}:1")
    pushed = sampand.docker("push", f"{repository}:1").stdout
    digest = pushed.rpartition("digest: ")[2].split()[0]
    assert sampand.docker("rmi", f"{repository}:1").stdout.splitlines() == [
        f"Untagged: {repository}:1",
        f"Untagged: {repository}@{digest}",
    ]
    for name in (f"{repository}@{digest}", f"{repository}:1@{digest}"):
        pulled = sampand.docker("pull", name).stdout.splitlines()
        assert pulled[-2:-1] == [f"Status: Downloaded newer image for {repository}@{digest}"]
        assert sampand.docker("rmi", f"{repository}@{digest}").stdout == f"Untagged: {repository}@{digest}\n"
    wrong = sampand.docker("pull", f"{repository}:1@{NO_DIGEST}", check=False)
    assert wrong.returncode == 1 and f"manifest for {repository}@{NO_DIGEST} not found" in wrong.stderr
    assert sampand.docker("image", "inspect", "-f", "{{.Id}}", "words-own").stdout.strip() == identity
    # By its id an image goes only when all its names are one repository's.
    sampand.docker("tag", "words-own", f"{repository}:1")
    several = sampand.docker("rmi", identity, check=False)
    assert several.returncode == 1 and "is referenced in multiple repositories" in several.stderr
    sampand.docker("rmi", f"{repository}:1")
    assert sampand.docker("rmi", identity).stdout.splitlines() == [
        "Untagged: words-own:latest",
        f"Deleted: {identity}",
    ]
