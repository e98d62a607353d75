"""`cleanup` during edits: it changes the prefix in Redis, and no edit is taken for a duplicate and lost."""

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
    """Synchronizes the clients: all of them begin another round, or none does."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._barrier = asyncio.Barrier(CLIENTS)
        self._over = False

    async def meet(self) -> bool:
        """Waits for all clients; returns True for one of them."""
        return await self._barrier.wait() == 0

    async def begins_another(self) -> bool:
        if await self.meet():
            self._over = self.stop.is_set()
        await self.meet()
        return not self._over


class Editor:
    """A client that alternates between two processes; it sends each text after the last one was confirmed."""

    def __init__(self, name: str, urls: list[str], rounds: Rounds):
        self._name = name
        self._urls = urls
        self._rounds = rounds
        self.confirmed: dict[str, str] = {}

    async def edit(self) -> None:
        """Sends comments with a text, then another text, then the first text again: a revert is easily lost."""
        async with http.AsyncClient(timeout=60) as client:
            while await self._rounds.begins_another():
                first = len(self.confirmed)
                ids = [f"{self._name}-{number}" for number in range(first, first + ROUND)]
                for turn, text in enumerate("ABA"):
                    # An edit refreshes the prefix of its process. The reverts are all sent at the same time, the last
                    # edited first: one process stores no edit for a while, and uses the previous prefix.
                    await self._rounds.meet()
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
    """Runs clients that edit until the end of the block, which waits for their last round."""
    rounds = Rounds()
    editors = [Editor(f"client{number}", [system.url for system in systems], rounds) for number in range(CLIENTS)]
    async with asyncio.TaskGroup() as group:
        for editor in editors:
            group.create_task(editor.edit())
        yield editors
        rounds.stop.set()


async def clean_up(system: System, folder: Path) -> set[str]:
    """Runs concurrent cleanups, which change the prefix at about the same time; returns the prefixes seen."""
    programs = [Program(folder, system.environment, "cleanup", "--yes", "--days", "30") for _ in range(AT_ONCE)]
    prefixes: set[str] = set()

    def ended() -> bool:
        # Polled first, so that the last change of the prefix is seen too.
        over = all(program.process.poll() is not None for program in programs)
        ((prefix,),) = execute(system.dsn, "SELECT cache_namespace::text FROM installation")
        prefixes.add(prefix)
        return over

    try:
        for program in programs:
            program.start()
        await until(ended, seconds=90)
        assert [program.process.returncode for program in programs] == [0] * AT_ONCE, [
            program.output for program in programs
        ]
    finally:
        for program in programs:
            program.kill()
    return prefixes


async def test_no_edit_is_lost_while_cleanups_change_the_prefix(make_system: MakeSystem, tmp_path: Path) -> None:
    systems = [make_system(), make_system()]
    for system in systems:
        system.orchestrator.start()
    for system in systems:
        await system.until_healthy()
    first = systems[0]
    replaced_long_ago(first.dsn)
    prefixes: set[str] = set()
    async with editing(systems) as editors:
        for name in FILLERS:
            stored_comments(first.dsn, 5, name=name)
            prefixes |= await clean_up(first, tmp_path)
    assert len(prefixes) > 2 * len(FILLERS)
    confirmed = {id_: text for editor in editors for id_, text in editor.confirmed.items()}
    found = dict(execute(first.dsn, "SELECT comment_id, text FROM comments"))
    # Compared as differences, for a readable failure. The second would contain the fillers.
    assert {id_: found.get(id_) for id_, text in confirmed.items() if found.get(id_) != text} == {}
    assert found.keys() - confirmed.keys() == set()
    assert await first.violated_invariants() == []
    for system in systems:
        system.has_no_complaints()
