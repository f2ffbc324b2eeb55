"""All objects of one list, held in memory by list and watch with the facade's own account.

It knows nothing of what they say.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

import structlog
from pydantic import ValidationError

from headrace_facade.errors import FacadeError, Gone, NotFound, Unavailable
from headrace_facade.own_account import OwnAccount

T = TypeVar("T")
Key = tuple[str, str]
"""Namespace and name; a Namespace has none of the first."""
PAGE: Final = 100
OBJECTS_MOST: Final = 5_000
"""Of one list; a model is about 13 KB. Beyond it what is not held is said to be unknown, and never to be absent."""
LIST_AFTER: Final = 3
"""Failures of a watch in a row."""
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_log = structlog.get_logger("headrace_facade")


class Mirror(Generic[T]):
    """`parse` makes an entry of an object, or raises ValueError: it is passed over then, and told in the log."""

    def __init__(
        self,
        account: OwnAccount,
        path: str,
        parse: Callable[[dict[str, Any]], T],
        *,
        most: int = OBJECTS_MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._account = account
        self._parse = parse
        self._most = most
        self._clock = clock
        self._objects: dict[Key, T] = {}
        self._unreadable: set[Key] = set()
        self._overfull = False
        self._heard: float | None = None

    @property
    def synced(self) -> bool:
        """A whole list was read once. What was read then is told also while the API server is away."""
        return self._heard is not None

    @property
    def silent_s(self) -> float:
        """Since the API server was last heard of; a watch in which nothing happens is heard of every minute."""
        return 0.0 if self._heard is None else self._clock() - self._heard

    def get(self, key: Key) -> T | None:
        """Raises Unavailable where that cannot be known."""
        if self._heard is None:
            raise Unavailable("this facade has not read the cluster's models yet: try again")
        found = self._objects.get(key)
        if found is None and key in self._unreadable:
            # Of a quota that would be as if there were none.
            raise Unavailable(f"this facade cannot read {key[0]}/{key[1]}: it is of another version than the CRDs", 30)
        if found is None and self._overfull:
            raise Unavailable(f"this facade holds {self._most} objects of a kind, and this is none of them", 30)
        return found

    def all(self) -> list[T]:
        """Raises Unavailable before the first list."""
        if self._heard is None:
            raise Unavailable("this facade has not read the cluster's models yet: try again")
        return list(self._objects.values())

    async def run(self) -> None:
        """Until cancelled."""
        version, failures = "", 0
        while True:
            try:
                if not version:
                    version = await self._list()
                async with aclosing(self._account.watch(self.path, version)) as events:
                    async for event in events:
                        failures = 0
                        version = self._applied(event) or version
                self._heard = self._clock()
            except (Gone, NotFound) as error:
                # Too old, or the CRD went and may come back: what there is is told by a new list.
                version = ""
                failures += isinstance(error, NotFound)
            except FacadeError as error:
                failures += 1
                if failures in (1, 10) or failures % 100 == 0:
                    _log.warning("watch failed", path=self.path, error=error.message, failures=failures)
            if failures >= LIST_AFTER:
                # An event that cannot be read would come again for ever.
                version = ""
            if failures:
                longest = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
                # All facades lose an API server at the same moment.
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 # spread, no secret

    async def _list(self) -> str:
        found: dict[Key, T] = {}
        query, overfull = {"limit": str(PAGE)}, False
        while True:
            page = await self._account.get(self.path, query)
            for body in page.get("items") or []:
                if len(found) >= self._most:
                    overfull = True
                    break
                self._put(found, body)
            metadata = page.get("metadata") or {}
            if overfull or not metadata.get("continue"):
                # All at once: nobody sees half a list.
                self._objects, self._overfull, self._heard = found, overfull, self._clock()
                return str(metadata.get("resourceVersion") or "")
            query["continue"] = str(metadata["continue"])

    def _applied(self, event: dict[str, Any]) -> str:
        """The resourceVersion to go on from."""
        self._heard = self._clock()
        body = event.get("object") or {}
        match event.get("type"):
            case "ADDED" | "MODIFIED":
                if key_of(body) not in self._objects and len(self._objects) >= self._most:
                    self._overfull = True
                else:
                    self._put(self._objects, body)
            case "DELETED":
                self._objects.pop(key_of(body), None)
                self._unreadable.discard(key_of(body))
        return str((body.get("metadata") or {}).get("resourceVersion") or "")

    def _put(self, objects: dict[Key, T], body: dict[str, Any]) -> None:
        key = key_of(body)
        try:
            objects[key] = self._parse(body)
            self._unreadable.discard(key)
        except (ValidationError, ValueError):
            objects.pop(key, None)
            if len(self._unreadable) < self._most:
                self._unreadable.add(key)
            _log.warning("object of another version", path=self.path, namespace=key[0], name=key[1])


def key_of(body: dict[str, Any]) -> Key:
    metadata = body.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")
