"""Documents that could be taken for two things, or come as something else than they are (CVE-2021-41190)."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from sampan import errors
from sampan.images import archive
from sampan.images.reference import Reference
from tests.conftest import Daemon
from tests.indexes import INDEX, MANIFEST, Multi, descriptor, digest, multi
from tests.registry.quirks import pull
from tests.registry.test_client import NewFront, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore
from tests.tars import tar_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.fixture
def made() -> Multi:
    return multi("amd64")


def image(made: Multi, **more: Any) -> dict[str, Any]:
    """The image's manifest without its mediaType, with other fields."""
    document: dict[str, Any] = json.loads(made.manifests["linux/amd64"])
    del document["mediaType"]
    return document | more


def index(made: Multi, **more: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(made.raw)
    del document["mediaType"]
    return document | more


def served(front: NewFront, made: Multi, document: dict[str, Any], kind: str) -> str:
    """A registry that has the document under each name, sent as ``kind``, and what it leads to; its address."""
    blobs = {**made.blobs, **{digest(one): one for one in made.manifests.values()}}
    kinds = {digest(one): MANIFEST for one in made.manifests.values()}

    def hook(exchange: Any) -> bool:
        name = exchange.path.rpartition("/")[2]
        if name == "1":
            return bool(exchange.answer(200, json.dumps(document).encode(), Content_Type=kind))
        known = name in blobs
        if known:
            exchange.answer(200, blobs[name], Content_Type=kinds.get(name, "application/octet-stream"))
        return known

    return front(hook).address


def wrong(made: Multi) -> dict[str, tuple[dict[str, Any], str, str]]:
    """Documents, as what they come, and what is said of them."""
    both, schema1 = "it is both an image and an index", {"schemaVersion": 1, "fsLayers": [], "history": []}
    members = index(made)["manifests"]
    return {
        "both, as an image": (image(made, manifests=members), MANIFEST, both),
        "both, as an index": (image(made, manifests=members), INDEX, both),
        "both, saying it is an image": (image(made, manifests=members, mediaType=MANIFEST), MANIFEST, both),
        "an index with a configuration": (index(made, config=image(made)["config"]), INDEX, both),
        "an index with layers": (index(made, layers=[]), INDEX, both),
        "null counts": (image(made, manifests=None), MANIFEST, both),
        "schema 1 as well": (image(made, **schema1), MANIFEST, "came as .*manifest.v1.json, .*schema 1"),
        "an image sent as an index": (image(made), INDEX, "came as .*, its fields are an image's"),
        "an index sent as an image": (index(made), MANIFEST, "came as .*, its fields are an index's"),
        "an index sent as Docker's image": (index(made), DOCKER_MANIFEST, "came as .*fields are an index's"),
        "an image sent as schema 1": (image(made), SCHEMA1, "came as .*, its fields are an image's"),
        "an image that says it is an index": (
            image(made, mediaType=INDEX),
            MANIFEST,
            "says that it is .*image",
        ),
        "an index that says it is an image": (
            index(made, mediaType=MANIFEST),
            INDEX,
            "says that it is .*index",
        ),
        "neither": ({"schemaVersion": 2}, MANIFEST, "neither an image nor an index"),
        "something else's": (image(made, mediaType="a/b"), "application/json", "says that it is a/b"),
        "sent as something else": (image(made), "application/vnd.x+json", "came as application/vnd.x"),
    }


@pytest.mark.parametrize("case", list(wrong(multi("amd64"))))
def test_it_is_refused(new_store: NewStore, front: NewFront, made: Multi, case: str) -> None:
    document, kind, message = wrong(made)[case]
    store = new_store("one")
    with pytest.raises(errors.InvalidParameter, match=rf"^invalid manifest: (it )?{message}"):
        pull(store, served(front, made, document, kind))
    assert store.list() == []


@pytest.mark.parametrize(
    "kind", ["", "application/json", "text/plain; charset=utf-8", MANIFEST, DOCKER_MANIFEST]
)
def test_servers_that_know_no_kinds_and_images_of_one_form(
    new_store: NewStore, front: NewFront, made: Multi, kind: str
) -> None:
    document = image(made) if not kind else image(made, mediaType=MANIFEST)
    assert pull(new_store("one"), served(front, made, document, kind)) == made.image("linux/amd64")


@pytest.mark.parametrize("kind", ["text/plain", INDEX, DOCKER_LIST, f"{INDEX}; charset=utf-8"])
def test_indexes_as_they_come(new_store: NewStore, front: NewFront, made: Multi, kind: str) -> None:
    assert pull(new_store("one"), served(front, made, index(made), kind)) == made.image("linux/amd64")


@pytest.mark.parametrize("everything", [False, True])
def test_an_entry_that_leads_to_something_else(
    new_store: NewStore, front: NewFront, made: Multi, everything: bool
) -> None:
    """An index names an image and has another index's digest there, or the other way round."""
    inner = json.dumps(index(made)).encode()
    made.manifests["inner"] = inner
    platform = {"architecture": "amd64", "os": "linux"}
    as_image = {"schemaVersion": 2, "manifests": [descriptor(MANIFEST, inner, platform=platform)]}
    found = made.manifests["linux/amd64"]
    as_index = {"schemaVersion": 2, "manifests": [descriptor(INDEX, found, platform=platform)]}
    for document in (as_image, as_index):
        store = new_store(f"{len(json.dumps(document))}{everything}")
        with pytest.raises(errors.InvalidParameter, match=r"^invalid manifest: it came as"):
            pull(store, served(front, made, document, INDEX), everything=everything)
        assert store.list() == []


def test_archives(new_store: NewStore, made: Multi) -> None:
    """What is loaded is looked at as what is pulled."""
    for number, (document, kind, message) in enumerate(wrong(made).values()):
        raw = json.dumps(document).encode()
        entries = {"schemaVersion": 2, "manifests": [descriptor(kind, raw)]}
        files = {"blobs/" + key.replace(":", "/"): data for key, data in made.blobs.items()}
        files["blobs/" + digest(raw).replace(":", "/")] = raw
        files |= {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(entries).encode(),
        }
        store = new_store(str(number))
        with pytest.raises(errors.InvalidParameter, match=rf"^invalid manifest: (it )?{message}"):
            archive.load(store, io.BytesIO(tar_of(files)).read, quiet)
        assert store.list() == []


def test_an_image_for_another_platform_than_asked_for(
    sampand: Daemon, new_store: NewStore, registry: str
) -> None:
    """dockerd takes it and warns, as there is nothing to choose from."""
    name = Reference.parse(f"{registry}/team/x:1")
    stored(new_store, registry)
    warning = (
        f"WARNING: image with reference {name.familiar} was found but its platform (linux/amd64) "
        "does not match the specified platform (linux/arm64)"
    )
    try:
        for _ in range(2):  # also when it is here
            assert warning in sampand.docker("pull", "--platform", "linux/arm64", name.familiar).stdout
        plain = sampand.docker("pull", "--platform", "linux/amd64", name.familiar).stdout
        assert "WARNING" not in plain + sampand.docker("pull", name.familiar).stdout
        run = sampand.docker("run", "--rm", "--platform", "linux/arm64", name.familiar, "true", check=False)
        assert run.returncode == 125
        assert "was found but does not provide the specified platform (linux/arm64)" in run.stderr
    finally:
        sampand.docker("rmi", name.familiar)
