"""The story from its first request to its report, on a system that is ready."""

from typing import Any

import aiohttp

from app.demo import books, receiver, report, story


async def show(said: dict[str, Any]) -> int:
    """The story on the system that said this, and the report of it; the exit status."""
    out = report.console()
    timeout = aiohttp.ClientTimeout(total=story.REQUEST_SECONDS)
    found = None
    async with receiver.listening() as listening, aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        told = story.Story(session, url=said["url"], key=said["secret_key"])
        try:
            await story.tell(told, listening)
            found = await books.read(told, session, database_url=said["database_url"], sandbox_url=said["sandbox_url"])
        except story.Unexpected as error:
            told.wrong.append(str(error))
    report.show(out, told, found)
    return 1 if told.wrong else 0
