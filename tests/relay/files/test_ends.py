"""Files and uploads: the instants at which they end, or give their room to others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clawlink.domain.file import SharedFile
from clawlink.domain.file_write import Write
from clawlink.errors import StorageFull, UnknownUpload
from clawlink.relay.files.quota import SILENT_UPLOAD_SECONDS
from clawlink.relay.files.upload import Upload
from tests.relay.scene import Scene


async def begin(scene: Scene, owner: str, key: str, length: int) -> Upload:
    ask = Write(key=key, content_type="text/plain")
    return (await scene.relay.uploads.create(await scene.agent(owner), ask, length, ""))[0]


async def test_an_upload_gives_its_room_to_others_from_the_instant_that_it_counts_as_silent() -> None:
    scene = Scene(max_files_bytes=100, fair_share=100)
    await scene.register("ann", "bob")
    upload = await begin(scene, "ann", "one", 90)
    await upload.buffer.write(b"x" * 60)
    scene.now += SILENT_UPLOAD_SECONDS - 1
    with pytest.raises(StorageFull):
        await begin(scene, "bob", "two", 60)
    scene.now += 1
    await begin(scene, "bob", "two", 60)
    with pytest.raises(UnknownUpload):
        scene.relay.uploads.get(upload.id)


async def test_an_upload_ends_at_the_instant_that_its_time_to_live_is_over() -> None:
    scene = Scene(upload_ttl=600)
    await scene.register("ann")
    upload = await begin(scene, "ann", "one", 90)
    scene.now += 599
    assert scene.relay.uploads.get(upload.id) is upload
    scene.now += 1
    with pytest.raises(UnknownUpload):
        scene.relay.uploads.get(upload.id)


async def test_the_janitor_ends_a_file_at_the_instant_that_its_time_to_live_is_over() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    scene = Scene()
    await scene.register("ann")
    ask = Write(key="k", content_type="text/plain", ttl=60)
    await scene.relay.files.put(await scene.agent("ann"), ask, parts(), 1)
    for seconds, over in ((59.5, False), (0.5, True)):
        await scene.let_pass(seconds)
        file = await scene.store.get(SharedFile, "k")
        assert file is not None
        assert file.deleted is over, seconds
