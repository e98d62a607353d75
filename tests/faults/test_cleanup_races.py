"""`cleanup` beside edits: it changes the prefix in Redis under them, and none is taken for a duplicate and lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
from tests.conftest import execute, until
from tests.faults.conftest import MakeSystem
from tests.support import http
from tests.support.database import stored_comments
from tests.support.requests import body, comment
from tests.support.system import REPEATED, Program, System
from tests.support.triggers import replaced_long_ago

CLIENTS: Final = 6
ROUND: Final = 8
AT_ONCE: Final = 3
FILLERS: Final = ("one ", "two ")


class Rounds:
    """What the clients do together; all of them begin another round, or none: a few would wait for the others."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._together = asyncio.Barrier(CLIENTS)
        self._over = False

    async def together(self) -> bool:
        """Waits for all; True for one of them."""
        return await self._together.wait() == 0

    async def goes_on(self) -> bool:
        if await self.together():
            self._over = self.stop.is_set()
        await self.together()
        return not self._over


class Editor:
    """A client with comments of its own that sends to two processes in turn, each text once the last is confirmed."""

    def __init__(self, name: str, urls: list[str], rounds: Rounds):
        self._name = name
        self._urls = urls
        self._rounds = rounds
        self.confirmed: dict[str, str] = {}

    async def edit(self) -> None:
        """Some comments with a text, then with another, then with the first: a revert is what may be lost."""
        async with http.AsyncClient(timeout=60) as client:
            while await self._rounds.goes_on():
                first = len(self.confirmed)
                ids = [f"{self._name}-{number}" for number in range(first, first + ROUND)]
                for turn, text in enumerate("ABA"):
                    # An edit brings the prefix to its process. So the reverts are all sent at one time, the last
                    # edited first: one process stores no edit for a while, and goes by the prefix of before.
                    await self._rounds.together()
                    for id_ in sorted(ids, reverse=turn == 2):
                        await self._send(client, self._urls[turn % 2], id_, f"{text} of {id_}")

    async def _send(self, client: httpx.AsyncClient, url: str, id_: str, text: str) -> None:
        request = body(comment(id_, text))
        async with asyncio.timeout(30):
            while (response := await client.post(f"{url}/comments/process", json=request)).status_code != 200:
                assert response.status_code in REPEATED, response.text
                await asyncio.sleep(0.05)
        self.confirmed[id_] = text


@asynccontextmanager
async def editing(systems: list[System]) -> AsyncIterator[list[Editor]]:
    """Clients that edit until the end of the block, which waits for the last of their rounds."""
    rounds = Rounds()
    editors = [Editor(f"client{number}", [one.url for one in systems], rounds) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for one in editors:
            group.create_task(one.edit())
        yield editors
        rounds.stop.set()


async def clean_up(system: System, folder: Path) -> set[str]:
    """Removals at once, which change the prefix as near to each other as they may; the prefixes seen."""
    programs = [Program(folder, system.environment, "cleanup", "--yes", "--days", "30") for _ in range(AT_ONCE)]
    prefixes: set[str] = set()

    def ended() -> bool:
        # Looked at first: what the last of them changes at its end is seen too.
        over = all(one.process.poll() is not None for one in programs)
        ((prefix,),) = execute(system.dsn, "SELECT cache_namespace::text FROM installation")
        prefixes.add(prefix)
        return over

    try:
        for one in programs:
            one.start()
        await until(ended, seconds=90)
        assert [one.process.returncode for one in programs] == [0] * AT_ONCE, [one.output for one in programs]
    finally:
        for one in programs:
            one.kill()
    return prefixes


async def test_no_edit_is_lost_while_cleanups_change_the_prefix(make_system: MakeSystem, tmp_path: Path) -> None:
    systems = [make_system(), make_system()]
    for one in systems:
        one.orchestrator.start()
    for one in systems:
        await one.until_healthy()
    first = systems[0]
    replaced_long_ago(first.dsn)
    prefixes: set[str] = set()
    async with editing(systems) as editors:
        for name in FILLERS:
            stored_comments(first.dsn, 5, name=name)
            prefixes |= await clean_up(first, tmp_path)
    assert len(prefixes) > 2 * len(FILLERS)
    confirmed = {id_: text for one in editors for id_, text in one.confirmed.items()}
    found = dict(execute(first.dsn, "SELECT comment_id, text FROM comments"))
    # As differences, for a readable failure. Fillers would be among the second.
    assert {id_: found.get(id_) for id_, text in confirmed.items() if found.get(id_) != text} == {}
    assert found.keys() - confirmed.keys() == set()
    assert await first.broken_promises() == []
    for one in systems:
        one.has_no_complaints()
