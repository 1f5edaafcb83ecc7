"""The door over real sockets: who may ask, what each method answers, and what it withstands."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clawlink.doors.a2a.rules import states, updates
from clawlink.doors.a2a.server import bodies
from tests.conftest import UNPACED
from tests.doors.a2a.conftest import VERSION, Rest, ServeA2A, client_of, message, reason
from tests.hostile import VALUES, variants
from tests.waiting import PATIENCE, eventually, until


async def worker(rest: Rest, name: str = "bob", **fields: Any) -> None:
    await rest.relay.register(name, agent_id=name, **fields)


async def claim(rest: Rest, name: str = "bob", wait: int = 5) -> list[dict[str, Any]]:
    _, polled = await rest.relay.get(f"/poll/{name}?lease=60&wait={wait}")
    found: list[dict[str, Any]] = polled["messages"]
    receipts = [one["receipt"] for one in polled["deliveries"]]
    if receipts:
        await rest.relay.post("/ack", {"agent_id": name, "receipts": receipts})
    return found


async def respond(rest: Rest, task_id: str, result: Any = None, *, by: str = "bob", **fields: Any) -> None:
    status, said = await rest.relay.post(
        "/respond", {"from_agent": by, "message_id": task_id, "result": result, **fields}
    )
    assert status == 200, said


@pytest.fixture
async def rest(serve_a2a: ServeA2A) -> Rest:
    """Give a client of the agent bob."""
    made = Rest(await serve_a2a(private_webhooks=True, limits=UNPACED), "/a2a/bob")
    await worker(made)
    return made


async def test_a_task_is_the_same_from_both_sides(rest: Rest) -> None:
    task = await rest.send("Count the words", contextId="c-1")
    assert task["status"]["state"] == states.SUBMITTED, "the agent is away, and the task waits"
    (message,) = await claim(rest)
    assert (message["message_id"], message["task"], message["from_agent"]) == (task["id"], "Count the words", "a2a")
    assert message["context"]["a2a"]["message"]["messageId"] == "m-1"
    _, shown = await rest.get(f"/tasks/{task['id']}")
    assert shown["status"]["state"] == states.WORKING
    await respond(rest, task["id"], "six", progress=100)
    _, shown = await rest.get(f"/tasks/{task['id']}")
    assert shown["artifacts"][0]["parts"] == [{"text": "six"}]
    assert (shown["contextId"], shown["metadata"]["clawlink"]["status"]) == ("c-1", "completed")
    assert (await rest.rpc("GetTask", {"id": task["id"]}))["result"] == shown
    _, own = await rest.relay.get(f"/tasks/{task['id']}?agent_id=bob")
    assert (own["status"], own["result"]) == ("completed", "six")
    # The response lies in no mailbox: the door has settled it.
    reads = rest.relay.app.relay.core.store

    async def drained() -> bool:
        return (await reads.admission(("a2a",), ())).mailboxes[0].count == 0

    await eventually(drained)


async def test_a_blocking_message_waits_for_the_answer_and_not_for_ever(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(a2a_wait=0.2), "/a2a/bob")
    await worker(rest)
    task = await rest.send(wait=True)
    assert task["status"]["state"] == states.SUBMITTED, "the time is over, and the task lives"
    sent = asyncio.create_task(Rest(await serve_a2a(), "/a2a/bob").send(wait=True))
    with pytest.raises(AssertionError):  # nobody is bob at that relay
        await sent


async def test_a_message_for_a_working_task_reaches_its_worker(rest: Rest) -> None:
    task = await rest.send()
    await claim(rest)
    more = await rest.send("and quickly", taskId=task["id"])
    assert more["id"] == task["id"]
    (said,) = await claim(rest)
    assert (said["type"], said["content"], said["in_reply_to"]) == ("message", "and quickly", task["id"])
    assert said["thread"] == task["contextId"]
    status, answer = await rest.post("/message:send", {"message": message(taskId=task["id"], contextId="other")})
    assert (status, reason(answer)) == (400, "INVALID_PARAMS")
    # A worker's plain message is not read by anybody, and says so.
    _, sent = await rest.relay.post("/send", {"from_agent": "bob", "to_agent": "a2a", "content": "hello?"})
    path = f"/messages/{sent['message_id']}?agent_id=bob"

    async def given_back() -> bool:
        _, status = await rest.relay.get(path)
        return bool(status["attempts"] and status["acked_at"] is None)

    await eventually(given_back)


async def test_a_pool_is_an_agent_of_its_own(rest: Rest) -> None:
    for name in ("ann", "cat"):
        await worker(rest, name, capabilities=["Python"])
    pool = Rest(rest.relay, "/a2a-pools/python")
    status, card = await pool.get("/.well-known/agent-card.json")
    assert (status, card["name"], card["skills"][0]["id"]) == (200, "python", "python")
    assert card["supportedInterfaces"][0]["url"].endswith("/a2a-pools/python")
    task = await pool.send()
    status, answer = await pool.post("/message:send", {"message": message(taskId=task["id"])})
    assert (status, reason(answer)) == (400, "UNSUPPORTED_OPERATION"), "nobody has claimed it"
    async with pool.stream("POST", f"/tasks/{task['id']}:subscribe") as following:
        assert (await following())["task"]["id"] == task["id"]
        assert (await claim(rest, "cat"))[0]["message_id"] == task["id"]
        assert (await following())["statusUpdate"]["status"]["state"] == states.WORKING
        await rest.relay.ask("DELETE", "/agents/cat")  # it leaves with the task
        assert (await following())["statusUpdate"]["status"]["state"] == states.SUBMITTED
        assert (await claim(rest, "ann"))[0]["message_id"] == task["id"]
        assert (await following())["statusUpdate"]["status"]["state"] == states.WORKING
        await respond(rest, task["id"], "done", by="ann")
        assert "artifactUpdate" in await following()
        assert (await following())["statusUpdate"]["status"]["state"] == states.COMPLETED
        assert await following() is None
    assert (await Rest(rest.relay, "/a2a/ann").get(f"/tasks/{task['id']}"))[0] == 404, "it was asked of the pool"
    assert (await Rest(rest.relay, "/a2a-pools/cobol").get("/tasks"))[0] == 404


@pytest.mark.virtual_time
async def test_a_client_sees_work_go_on_after_its_worker_has_died(serve_a2a: ServeA2A) -> None:
    rest = Rest(await serve_a2a(), "/a2a-pools/python")
    for name in ("ann", "cat"):
        await worker(rest, name, capabilities=["python"])
    task = await rest.send()
    told: list[str | None] = []

    async def follow() -> None:
        async with rest.stream("GET", f"/tasks/{task['id']}:subscribe") as following:
            while (event := await following()) is not None:
                told.append(updates.ends(event))

    client = asyncio.create_task(follow())
    _, polled = await rest.relay.get("/poll/cat?lease=5&wait=1")
    assert polled["count"] == 1, "cat claims the task, and is never heard of again"
    assert (await claim(rest, "ann", wait=30))[0]["message_id"] == task["id"]
    await respond(rest, task["id"], "done", by="ann")
    await client
    states = [state and state.removeprefix("TASK_STATE_") for state in told]
    assert states[-5:] == ["WORKING", "SUBMITTED", "WORKING", None, "COMPLETED"], states
    late = await rest.relay.post("/respond", {"from_agent": "cat", "message_id": task["id"], "result": "late"})
    assert late[0] == 409


async def test_raw_parts_become_files_that_client_and_worker_alone_can_read(rest: Rest) -> None:
    data = bytes(range(256)) * 4096
    part = {"raw": base64.b64encode(data).decode(), "filename": "../a b.bin", "mediaType": "image/png"}
    status, answer = await rest.post_large(
        "/message:send",
        {"message": {**message(), "parts": [{"text": "look"}, part]}, "configuration": {"returnImmediately": True}},
    )
    assert status == 200, answer
    task = answer["task"]
    shown = task["history"][0]["parts"][1]
    assert (shown["filename"], shown["mediaType"], "raw" in shown) == ("../a b.bin", "image/png", False)
    (given,) = (one for one in await claim(rest) if one["type"] == "task_delegation")
    (file,) = given["attachments"]
    assert (file["size"], file["name"]) == (len(data), "../a b.bin")
    url = f"{rest.relay.url}/blobs/{file['file_key'].replace('/', '%2F')}"
    for who, status in (("bob", 200), ("eve", 404)):
        await rest.relay.register(who, agent_id=who)
        async with rest.relay.session.get(url, headers={"ClawLink-Agent": who}) as got:
            assert got.status == status, who
            assert status == 404 or await got.read() == data
    async with rest.relay.session.get(shown["url"], headers={"Range": "bytes=0-2"}) as got:
        assert (got.status, await got.read(), got.content_type) == (206, data[:3], "image/png")
    other = shown["url"].replace("a2a%2F", "b2b%2F")
    assert (await rest.relay.session.get(other)).status == 404
    # Nor can a client have its task name a file that is for everyone on the relay.
    assert (
        await rest.relay.session.put(f"{rest.relay.url}/blobs/pub", data=b"x", headers={"ClawLink-Agent": "bob"})
    ).ok
    for id in ("", task["id"]):
        named = {**message(), "taskId": id, "parts": [{"url": "clawlink-file:pub"}]}
        status, answer = await rest.post("/message:send", {"message": named})
        assert (status, reason(answer)) == (400, "INVALID_PARAMS"), answer
    pub = shown["url"].rpartition("/")[0] + "/pub"
    assert (await rest.relay.session.get(pub)).status == 404
    # A refused message leaves no file behind.
    before = (await rest.relay.get("/"))[1]["shared_files"]
    for parts in ([part, {"raw": "no base64"}], [part, {"data": "x" * 1_100_000}]):
        status, answer = await rest.post_large("/message:send", {"message": {**message(), "parts": parts}})
        assert status in (400, 413), answer
        assert (await rest.relay.get("/"))[1]["shared_files"] == before
    status, answer = await rest.post_large("/message:send", {"message": message("x" * 26_000_000)})
    assert (status, answer["error"]["status"]) == (413, "OUT_OF_RANGE")


async def test_a_slow_client_does_not_shut_others_out(
    serve_a2a: ServeA2A, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clients.json"
    slow, quick = client_of(file, "slow"), client_of(file, "quick")
    relay = await serve_a2a(clients=str(file))
    await worker(Rest(relay, ""))
    hanging = 0

    async def held() -> AsyncIterator[bytes]:
        nonlocal hanging
        yield b'{"a": "'
        hanging += 1
        await asyncio.Event().wait()

    async def hang(path: str) -> tuple[int, Any]:
        headers = {**VERSION, "Authorization": f"Bearer {slow}", "Content-Type": "application/json"}
        return await relay.ask("POST", path, data=held(), headers=headers)

    slow_ones = [asyncio.create_task(hang("/a2a/bob/message:send")) for _ in range(bodies.LARGE_AT_ONCE)]
    try:
        await until(lambda: hanging == bodies.LARGE_AT_ONCE)
        body = {"message": message("x" * 100_000), "configuration": {"returnImmediately": True}}
        sent = Rest(relay, "/a2a/bob", quick).post_large("/message:send", body)
        status, answer = await asyncio.wait_for(sent, PATIENCE)
        assert status == 200, answer
    finally:
        for one in slow_ones:
            one.cancel()
        await asyncio.gather(*slow_ones, return_exceptions=True)
    monkeypatch.setattr(bodies, "LARGE_SECONDS", 0.05)
    for path, status in (("/a2a/bob/message:send", 408), ("/a2a/bob", 200)):
        got, answer = await asyncio.wait_for(hang(path), PATIENCE)
        said = answer["error"]["message"]
        assert (got, reason(answer)) == (status, "BODY_TIMEOUT"), path
        for word in ("0.05 s", "65536 bytes", "url part"):
            assert word in said, said


async def test_a_result_that_was_attached_for_the_client_can_be_fetched(rest: Rest) -> None:
    task = await rest.send()
    await claim(rest)
    put = await rest.relay.session.put(
        f"{rest.relay.url}/blobs/out", data=b"secret", headers={"ClawLink-Agent": "bob", "ClawLink-Readers": ""}
    )
    assert put.status == 201
    saved = await put.json()
    file = {"file_key": "out", "version": 1, "size": 6, "sha256": saved["sha256"], "name": "out.txt"}
    await respond(rest, task["id"], attachments=[file])
    _, done = await rest.get(f"/tasks/{task['id']}")
    (part,) = done["artifacts"][0]["parts"]
    async with rest.relay.session.get(part["url"]) as got:
        assert (got.status, await got.read()) == (200, b"secret")


async def test_each_client_sees_its_own_tasks_alone(serve_a2a: ServeA2A, tmp_path: Path) -> None:
    file = tmp_path / "clients.json"
    ann, cat = client_of(file, "ann"), client_of(file, "cat")
    relay = await serve_a2a(token="t", clients=str(file))
    by_token = Rest(relay, "/a2a/bob", "t")
    bearer = {"Authorization": "Bearer t"}
    assert (await relay.post("/register", {"agent_id": "bob", "name": "bob"}, headers=bearer))[0] == 200
    clients = {"t": by_token, "ann": Rest(relay, "/a2a/bob", ann), "cat": Rest(relay, "/a2a/bob", cat)}
    tasks = {name: await rest.send(name) for name, rest in clients.items()}
    for name, rest in clients.items():
        _, listed = await rest.get("/tasks")
        assert [task["id"] for task in listed["tasks"]] == [tasks[name]["id"]], name
        for other, task in tasks.items():
            for method, path in (("get", ""), ("post", ":cancel"), ("post", ":subscribe")):
                if other != name:
                    status, answer = await getattr(rest, method)(f"/tasks/{task['id']}{path}")
                    unknown = await getattr(rest, method)(f"/tasks/{'0' * 24}{path}")
                    assert (status, reason(answer)) == (404, "TASK_NOT_FOUND"), (name, other, path)
                    assert json.dumps(answer).replace(task["id"], "0" * 24) == json.dumps(unknown[1])
    # The relay's own routes are closed to them.
    assert (await relay.get("/discover", headers={"Authorization": f"Bearer {ann}"}))[0] == 401
    for wrong in (None, "t2", "a2a_wrong"):
        assert (await Rest(relay, "/a2a/bob", wrong).get("/tasks"))[0] == 401, wrong
    # Without a token only the relay's own card is public, and it names no agent.
    status, card = await relay.get("/.well-known/agent-card.json")
    assert (status, "bob" in json.dumps(card)) == (200, False)
    assert card["securityRequirements"] == [{"schemes": {"bearer": {"list": []}}}]
    assert (await relay.get("/a2a/bob/.well-known/agent-card.json"))[0] == 401
    for headers, entries in (({}, 1), (bearer, 2), ({"Authorization": f"Bearer {cat}"}, 2)):
        _, catalog = await relay.get("/.well-known/ai-catalog.json", headers=headers)
        assert len(catalog["entries"]) == entries
    guess = {"Authorization": "Bearer t2"}
    assert (await relay.get("/.well-known/ai-catalog.json", headers=guess))[0] == 401, "no place to guess a token"
    # No peer can register as a client, nor be sent a task by one.
    for taken in ("a2a", "A2A", "a2a/ann", "a2a/new"):
        assert (await relay.post("/register", {"agent_id": taken}, headers=bearer))[0] == 403, taken
    assert (await Rest(relay, "/a2a/a2a%2Fann", "t").get("/tasks"))[0] == 404
    # The file is read again while the relay runs.
    new = client_of(file, "new")

    async def let_in() -> bool:
        return (await Rest(relay, "/a2a/bob", new).get("/tasks"))[0] == 200

    await eventually(let_in)


async def test_errors_have_the_codes_of_both_bindings(rest: Rest) -> None:
    task = await rest.send()
    id = task["id"]
    await rest.post(f"/tasks/{id}:cancel")
    text = {"message": message()}
    for method, params, path, verb, body, rpc, status, why in (
        ("GetTask", {"id": "x"}, "/tasks/x", "get", None, -32001, 404, "TASK_NOT_FOUND"),
        ("CancelTask", {"id": id}, f"/tasks/{id}:cancel", "post", {}, -32002, 400, "TASK_NOT_CANCELABLE"),
        ("SubscribeToTask", {"id": id}, f"/tasks/{id}:subscribe", "get", None, -32004, 400, "UNSUPPORTED_OPERATION"),
        (
            *("SendMessage", {"message": message(taskId=id)}, "/message:send", "post"),
            *({"message": message(taskId=id)}, -32004, 400, "UNSUPPORTED_OPERATION"),
        ),
        ("SendMessage", {}, "/message:send", "post", {}, -32602, 400, "INVALID_PARAMS"),
        ("Nothing", {}, "/nothing", "get", None, -32601, 404, "METHOD_NOT_FOUND"),
    ):
        answer = await rest.rpc(method, params)
        assert (answer["error"]["code"], reason(answer)) == (rpc, why), method
        ask = {"get": rest.get(path)} if verb == "get" else {"post": rest.post(path, body)}
        got, answer = await ask[verb]
        assert (got, answer["error"]["code"], reason(answer)) == (status, status, why), path
    for sent, code in (
        (b"{", -32700),
        (b"[]", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "GetTask"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": []}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": ' + b"[" * 80 + b"]" * 80 + b"}", -32602),
        (b"\xff", -32700),
    ):
        for end in ("", "/"):
            async with rest.relay.session.post(
                rest.relay.url + rest.path + end,
                data=sent,
                headers=VERSION | {"Content-Type": "application/json"},
            ) as got_back:
                assert got_back.status == 200, sent
                assert (await got_back.json())["error"]["code"] == code, sent
    for version, status in (("1.0", 200), ("1.0.7", 200), ("0.3", 400), ("", 400), ("2.0", 400), ("x", 400)):
        got, answer = await rest.relay.get(f"{rest.path}/tasks", headers={"A2A-Version": version})
        assert got == status, version
        assert status == 200 or reason(answer) == "VERSION_NOT_SUPPORTED", version
    assert (await rest.relay.get(f"{rest.path}/tasks?A2A-Version=1.0"))[0] == 200
    for media, status in (("text/plain", 400), ("application/a2a+json", 200), ("application/json; charset=utf-8", 200)):
        async with rest.relay.session.post(
            f"{rest.relay.url}{rest.path}/message:send",
            data=json.dumps({**text, "configuration": {"returnImmediately": True}}),
            headers=VERSION | {"Content-Type": media},
        ) as got_back:
            assert got_back.status == status, media
            shown = "application/a2a+json" if "a2a" in media else "application/json"
            assert got_back.content_type == shown
    assert (await rest.get("/message:send"))[0] == 405


async def test_lists_are_paged_while_tasks_come(rest: Rest) -> None:
    for n in range(25):
        await rest.send(str(n), contextId=f"c-{n % 2}")
    seen: list[str] = []
    token = ""
    while True:
        status, page = await rest.get("/tasks", pageSize="4", **({"pageToken": token} if token else {}))
        assert status == 200, page
        assert len(page["tasks"]) <= 4
        assert all("artifacts" not in task for task in page["tasks"])
        seen += [task["id"] for task in page["tasks"]]
        token = page["nextPageToken"]
        if not token:
            break
        await rest.send("new")
    assert len(seen) == len(set(seen)) == 25
    times = [(await rest.get(f"/tasks/{id}"))[1]["status"]["timestamp"] for id in seen]
    assert times == sorted(times, reverse=True)
    _, page = await rest.get("/tasks", contextId="c-1", pageSize="100", includeArtifacts="true", historyLength="0")
    assert (page["totalSize"], page["tasks"][0]["artifacts"], "history" in page["tasks"][0]) == (12, [], False)
    # The bound belongs to it, as the specification says: two tasks may change at one instant.
    _, page = await rest.get("/tasks", statusTimestampAfter=times[0], pageSize="100")
    assert page["totalSize"] < 25
    assert seen[0] in [task["id"] for task in page["tasks"]]
    for wrong in (
        {"pageSize": "0"},
        {"pageSize": "101"},
        {"pageToken": "x"},
        {"status": "x"},
        {"statusTimestampAfter": "x"},
    ):
        status, answer = await rest.get("/tasks", **wrong)
        assert (status, reason(answer)) == (400, "INVALID_PARAMS"), wrong


async def test_a_thousand_tasks_are_paged_while_new_ones_come(serve_a2a: ServeA2A) -> None:
    """Each task that was there is in one page, and no page holds the loop for long, however many tasks there are."""
    rest = Rest(await serve_a2a(limits=UNPACED), "/a2a/bob")
    await worker(rest)
    asked = [rest.send(str(n)) for n in range(1000)]
    for part in (asked[at : at + 50] for at in range(0, 1000, 50)):
        await asyncio.gather(*part)
    seen: list[str] = []
    token = ""
    pages = 0
    while True:
        new = asyncio.create_task(rest.send("new"))
        page = (await rest.rpc("ListTasks", {"pageSize": 100, "historyLength": 0, "pageToken": token}))["result"]
        assert len(page["tasks"]) <= 100
        seen += [task["id"] for task in page["tasks"]]
        await new
        token = page["nextPageToken"]
        pages += 1
        if not token:
            break
        if pages == 3:  # a listed task moves to the front, behind which all pages to come are
            await rest.post(f"/tasks/{seen[-1]}:cancel")
    assert len(set(seen)) == len(seen)
    assert 1000 <= len(seen) <= 1001, "the first page may have the task that came with it"
    assert page["totalSize"] >= 1000 + pages - 1


async def test_a_cancel_and_an_answer_at_once_leave_one_end(rest: Rest) -> None:
    for n in range(10):
        task = await rest.send(str(n))
        await claim(rest)
        answered, (status, _) = await asyncio.gather(
            rest.relay.post("/respond", {"from_agent": "bob", "message_id": task["id"], "result": "x"}),
            rest.post(f"/tasks/{task['id']}:cancel"),
        )
        _, now = await rest.get(f"/tasks/{task['id']}")
        ends = {states.COMPLETED: (200, 400), states.CANCELED: (409, 200)}
        assert (answered[0], status) == ends[now["status"]["state"]]


async def test_cards_can_be_kept(rest: Rest) -> None:
    path = f"{rest.relay.url}{rest.path}/.well-known/agent-card.json"
    async with rest.relay.session.get(path) as got:
        headers = got.headers
        card = await got.json()
    assert headers["Cache-Control"] == "public, max-age=60"
    assert headers["Last-Modified"].endswith("GMT")
    assert card["capabilities"]["extensions"][0]["params"] == {"messageTtlSeconds": 86400.0}
    again = await rest.relay.session.get(path, headers={"If-None-Match": headers["ETag"]})
    assert again.status == 304
    assert (await rest.relay.session.head(path)).status == 200
    _, extended = await rest.get("/extendedAgentCard")
    assert extended["capabilities"]["extensions"][1]["params"]["status"] == "online"
    own = Rest(rest.relay, "/a2a-relay")
    assert reason(await own.rpc("GetExtendedAgentCard")) == "EXTENDED_AGENT_CARD_NOT_CONFIGURED"
    wanted = {"taskId": "t", "url": "https://example.com/"}
    assert reason(await own.rpc("CreateTaskPushNotificationConfig", wanted)) == "PUSH_NOTIFICATION_NOT_SUPPORTED"
    async with own.stream("POST", "/message:stream", {"message": message()}) as following:
        assert "message" in await following()
        assert await following() is None
    told = await own.rpc("SendMessage", {"message": message()})
    (part,) = told["result"]["message"]["parts"]
    assert [agent["name"] for agent in part["data"]["agents"]] == ["bob"]


async def test_no_hostile_body_is_answered_with_a_failure_of_the_relay(serve_a2a: ServeA2A) -> None:
    """Each value of a good request is replaced by each of these, in both bindings."""
    rest = Rest(await serve_a2a(limits=UNPACED, a2a_wait=0.0), "/a2a/bob")
    await worker(rest)
    task = await rest.send()
    good = {
        "message": {**message(), "metadata": {"a": 1}, "extensions": ["x"], "referenceTaskIds": [task["id"]]},
        "configuration": {
            "acceptedOutputModes": ["text/plain"],
            "historyLength": 1,
            "returnImmediately": True,
            "taskPushNotificationConfig": {
                "url": "https://example.com/x",
                "token": "t",
                "authentication": {"scheme": "Bearer", "credentials": "c"},
            },
        },
        "metadata": {},
    }
    refused = 0
    for number, body in enumerate(variants(good, VALUES)):
        if number % 2:
            status, answer = await rest.post("/message:send", body)
        else:
            status, answer = await rest.post("", {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": body})
        assert status < 500, (body, answer)
        assert "-32603" not in json.dumps(answer), (body, answer)
        refused += "error" in answer
    assert refused > number / 2
    for by in VALUES:
        text = str(by)
        for name in ("historyLength", "pageSize", "pageToken", "status", "statusTimestampAfter", "contextId"):
            status, answer = await rest.get("/tasks", **{name: text})
            assert status < 500, (name, by, answer)
        for path in (f"/tasks/{text[:99]}", f"/tasks/{task['id']}/pushNotificationConfigs/{text[:99]}"):
            status, answer = await rest.get(path.replace("\x00", "%00").replace("\n", "%0A"))
            assert status < 500, (path, answer)
