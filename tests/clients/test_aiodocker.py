"""aiodocker: the asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tarfile
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

aiodocker = pytest.importorskip("aiodocker", reason="aiodocker is not installed")
pytestmark = pytest.mark.root


def use(host: str, work: Callable[[Any], Awaitable[None]]) -> None:
    """Run ``work`` with a client."""

    async def run() -> None:
        async with aiodocker.Docker(url=host) as client:
            await asyncio.wait_for(work(client), 60)

    asyncio.run(run())


def config(*command: str, **more: Any) -> dict[str, Any]:
    return {"Image": "busybox", "Cmd": list(command), **more}


def test_life_and_logs(host: str, unique: str) -> None:
    async def work(client: Any) -> None:
        assert (await client.version())["Os"] == "linux"
        assert (await client.system.info())["OSType"] == "linux"
        script = "echo one; echo two >&2; sleep 0.3; echo three; exit 3"
        container = await client.containers.create_or_replace(unique, config("sh", "-c", script))
        await container.start()
        followed = [line async for line in container.log(stdout=True, follow=True)]
        assert "".join(followed) == "one\nthree\n"
        assert (await container.wait())["StatusCode"] == 3
        assert await container.log(stderr=True) == ["two\n"]
        shown = await container.show()
        assert shown["Name"] == f"/{unique}" and shown["State"]["ExitCode"] == 3
        assert [one.id for one in await client.containers.list(all=True, filters={"name": [unique]})] == [
            container.id
        ]
        replaced = await client.containers.create_or_replace(unique, config("true"))
        assert replaced.id != container.id
        await replaced.delete(force=True)
        with pytest.raises(aiodocker.DockerError) as caught:
            await client.containers.get(unique)
        assert caught.value.status == 404 and "No such container" in caught.value.message

    use(host, work)


def test_run_stop_pause_rename_stats_top(host: str, unique: str) -> None:
    async def work(client: Any) -> None:
        container = await client.containers.run(
            config("sleep", "1000", HostConfig={"Init": True}), name=unique
        )
        assert (await container.stats(stream=False))[0]["memory_stats"]["usage"] > 0
        async for figures in container.stats():
            assert figures["pids_stats"]["current"] >= 1
            break
        await container.pause()
        assert (await container.show())["State"]["Paused"]
        await container.unpause()
        await container.rename(unique + "b")
        await container.restart(timeout=2)
        await container.stop(t=2)
        assert (await container.show())["State"]["ExitCode"] == 143
        await container.delete()

    use(host, work)


def test_attach_and_exec(host: str) -> None:
    async def work(client: Any) -> None:
        container = await client.containers.create(
            config("cat", OpenStdin=True, AttachStdin=True, AttachStdout=True, StdinOnce=True)
        )
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await container.start()
            await stream.write_in(b"hello\n")
            message = await stream.read_out()
            assert (message.stream, message.data) == (1, b"hello\n")
        await container.delete(force=True)
        container = await client.containers.run(config("sleep", "1000", HostConfig={"Init": True}))
        execution = await container.exec(["sh", "-c", "read x; echo got $x; exit 8"], stdin=True)
        async with execution.start(detach=False) as stream:
            await stream.write_in(b"this\n")
            message = await stream.read_out()
            assert message.data == b"got this\n"
            assert await stream.read_out() is None
        assert (await execution.inspect())["ExitCode"] == 8
        terminal = await container.exec("sh", tty=True, stdin=True)
        async with terminal.start() as stream:
            await terminal.resize(h=30, w=100)
            await stream.write_in(b"echo $((40+2)); exit\n")
            out = b""
            while (message := await stream.read_out()) is not None:
                out += message.data
            assert b"42" in out
        await container.delete(force=True)

    use(host, work)


def test_websocket(host: str) -> None:
    async def work(client: Any) -> None:
        container = await client.containers.create(
            config("cat", OpenStdin=True, AttachStdin=True, AttachStdout=True, Tty=False)
        )
        await container.start()
        websocket = await container.websocket(stdin=True, stdout=True, stderr=True, stream=True)
        await websocket.send_str("hello\n")
        assert (await websocket.receive()).data in ("hello\n", b"hello\n")
        await websocket.close()
        await container.delete(force=True)

    use(host, work)


def test_files(host: str) -> None:
    async def work(client: Any) -> None:
        container = await client.containers.create(config("true"))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo("note")
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"hello"))
        await container.put_archive("/tmp", buffer.getvalue())
        found = await container.get_archive("/tmp/note")
        member = found.extractfile("note")
        assert member is not None and member.read() == b"hello"
        await container.delete()

    use(host, work)


def test_events(host: str, unique: str) -> None:
    async def work(client: Any) -> None:
        subscriber = client.events.subscribe()
        while True:  # until it listens
            volume = await client.volumes.create({"Name": unique})
            await volume.delete()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(subscriber.get(), 0.2)
                break
        container = await client.containers.run(config("true"), name=unique)
        await container.wait()
        await container.delete()
        seen = []
        while not seen or seen[-1] != "destroy":
            event = await asyncio.wait_for(subscriber.get(), 40)
            if event["Actor"]["Attributes"].get("name") == unique:
                seen.append(event["Action"])
        assert seen == ["create", "start", "die", "destroy"]

    use(host, work)


def test_images_volumes_networks(host: str, unique: str) -> None:
    async def work(client: Any) -> None:
        image = await client.images.inspect("busybox")
        assert await client.images.tag("busybox", unique)
        assert any(f"{unique}:latest" in (one["RepoTags"] or []) for one in await client.images.list())
        exported = io.BytesIO()
        async with client.images.export_image(unique) as stream:
            async for chunk in stream.iter_chunked(1 << 20):
                exported.write(chunk)
        await client.images.delete(unique)
        loaded = [line async for line in client.images.import_image(exported.getvalue(), stream=True)]
        assert any(unique in line.get("stream", "") for line in loaded)
        assert (await client.images.inspect(unique))["Id"] == image["Id"]
        await client.images.delete(unique)
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            text = b"FROM busybox\nRUN echo built > /x\n"
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        context.seek(0)
        lines = [
            line
            async for line in client.images.build(
                fileobj=context, tag=unique, encoding="identity", stream=True
            )
        ]
        assert any("Successfully tagged" in line.get("stream", "") for line in lines)
        assert (await client.images.history(unique))[0]["CreatedBy"]
        await client.images.delete(unique)

        volume = await client.volumes.create({"Name": unique, "Labels": {"a": "b"}})
        assert (await volume.show())["Name"] == unique
        assert unique in [one["Name"] for one in (await client.volumes.list())["Volumes"]]
        await volume.delete()
        network = await client.networks.create({"Name": unique, "CheckDuplicate": True})
        container = await client.containers.run(config("sleep", "100", HostConfig={"Init": True}))
        await network.connect({"Container": container.id})
        assert container.id in (await network.show())["Containers"]
        await network.disconnect({"Container": container.id})
        await container.delete(force=True)
        assert await network.delete()

    use(host, work)
