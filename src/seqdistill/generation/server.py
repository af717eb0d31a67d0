"""A client of servers that speak the OpenAI API: bounded, with time limits, retries and replicas.

What asks it is not known here. A key comes from the environment and is in no text that leaves.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from seqdistill.core.errors import ServerError, first_line
from seqdistill.recipe.server_schema import ServerSection

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 15.0
_CONNECT_S = 10.0
_TOO_MANY, _TIMED_OUT, _SERVER_FAULT = 429, 408, 500
_MOST_TOLD = 300
"""Characters of a server's words in a message."""
Answer = Mapping[str, Any]
Item = TypeVar("Item")


class TryAgain(Exception):
    """A request that may succeed later, or elsewhere; `gone` where nobody answered."""

    def __init__(self, words: str, *, gone: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(words)
        self.gone, self.wait_s = gone, wait_s


class RefusedError(ServerError):
    """A request that a server does not serve, and would not serve later."""


@dataclasses.dataclass(eq=False)
class Replica:
    """One of several servers of a model."""

    url: str
    resting_until: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    unchecked: bool = False
    """It did not answer and may since serve something else, or it must be told something."""
    checking: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def api_key(section: ServerSection) -> str | None:
    """The key for this server. Raises ServerError where the recipe names a variable without one."""
    if (name := section.api_key_env) is not None:
        if not (found := os.environ.get(name)):
            raise ServerError(
                f"The environment variable {name} must hold the server's key, but it is not set; "
                "set it, or take api_key_env out of the recipe"
            )
        return found
    hosts = [urlsplit(url).hostname or "" for url in section.url]
    own = all(host == "openai.com" or host.endswith(".openai.com") for host in hosts)
    names = ["SEQDISTILL_API_KEY", *(["OPENAI_API_KEY"] if own else [])]
    return next((found for name in names if (found := os.environ.get(name))), None)


class ServerClient:
    """Asks the replicas of one model, any of them or each.

    A request that nobody answers in time, or that a server cannot serve now, is made again, of the
    next replica at once and of the same one after waits that double, for `patience_s`. Usable from
    any thread. `on_return` is called with a replica that answers again, before it is used: it
    raises ServerError for one that has become another.
    """

    def __init__(self, section: ServerSection, *, key: str) -> None:
        """`key` is what the recipe calls the section. Raises ServerError without a key that it
        names."""
        self.section, self.key = section, key
        self.replicas = [Replica(url) for url in section.url]
        self.on_return: Callable[[Replica], None] | None = None
        found = api_key(section)
        self._secret = None if found is None else SecretStr(found)
        self._http = httpx2.Client(
            headers={} if found is None else {"Authorization": f"Bearer {found}"},
            timeout=httpx2.Timeout(section.timeout_s, connect=_CONNECT_S, pool=None),
            limits=httpx2.Limits(max_connections=section.concurrency + len(self.replicas)),
        )
        self._threads = ThreadPoolExecutor(section.concurrency, thread_name_prefix="server")
        self._turn, self._lock = itertools.count(), threading.Lock()
        self._closed = threading.Event()
        weakref.finalize(self, self._http.close)

    def close(self) -> None:
        """Gives up what is under way."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def submit(self, path: str, body: Answer, read: Callable[[Answer], Item]) -> Future[Item]:
        """The answer of any replica to come, read by a thread of the client's."""
        return self._threads.submit(lambda: read(self.post(path, body)))

    def post_all(
        self,
        path: str,
        bodies: Iterable[Answer],
        *,
        read: Callable[[Answer], Item],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Item]:
        """The answers to all, read, in their order; after an error nothing is left under way."""
        under_way = [self.submit(path, body, read) for body in bodies]
        return self._all(under_way, on_progress or (lambda _: None))

    def each_of(
        self, replica: Replica, path: str, bodies: Iterable[Answer], read: Callable[[Answer], Item]
    ) -> list[Item]:
        """The same of this replica."""

        def asked(body: Answer) -> Item:
            return read(self.of(replica, path, body))

        return self._all([self._threads.submit(asked, body) for body in bodies], lambda _: None)

    def _all(self, under_way: list[Future[Item]], ready: Callable[[int], None]) -> list[Item]:
        found = []
        try:
            for one in under_way:
                found.append(one.result())
                ready(1)
        except BaseException:
            self.close()
            raise
        return found

    def post(self, path: str, body: Answer) -> Answer:
        """The answer of a replica. Raises ServerError for a refusal, and when patience ends."""
        return self._asked(path, body, self.replicas)

    def of(self, replica: Replica, path: str, body: Answer | None = None) -> Answer:
        """The answer of this replica; without a body, to GET."""
        return self._asked(path, body, [replica])

    def _asked(self, path: str, body: Answer | None, replicas: list[Replica]) -> Answer:
        began = time.monotonic()
        while not self._closed.is_set():
            replica = self._next(replicas)
            rest = replica.resting_until - time.monotonic()
            if rest > 0.0 and self._closed.wait(rest):
                break
            try:
                self._check_return(replica)
                answer = self.once(replica, path, body)
            except TryAgain as error:
                if self._closed.is_set():
                    break
                self._let_rest(replica, error)
                if time.monotonic() - began > self.section.patience_s:
                    raise ServerError(
                        f"A server of {self.key} must answer within patience_s="
                        f"{self.section.patience_s:g} seconds, but the last that was found is: "
                        f"{error}; start it again and go on with --resume, or raise "
                        f"{self.key}.patience_s"
                    ) from error
            else:
                replica.wait_s = _FIRST_WAIT_S
                return answer
        raise ServerError(f"the client of {self.key} was closed while it waited for an answer")

    def _next(self, replicas: list[Replica]) -> Replica:
        """The next in turn of those that are not resting; else the one that rests least."""
        now, turn = time.monotonic(), next(self._turn)
        awake = [replica for replica in replicas if replica.resting_until <= now]
        if awake:
            return awake[turn % len(awake)]
        return min(replicas, key=lambda replica: replica.resting_until)

    def _let_rest(self, replica: Replica, error: TryAgain) -> None:
        with self._lock:
            now = time.monotonic()
            replica.unchecked |= error.gone
            if replica.resting_until > now:  # another thread has just found the same
                return
            if replica.wait_s == _FIRST_WAIT_S:
                _LOG.warning("%s: %s; trying again", self.key, error)
            replica.resting_until = now + max(replica.wait_s, min(error.wait_s, _LONGEST_WAIT_S))
            replica.wait_s = min(2 * replica.wait_s, _LONGEST_WAIT_S)

    def check_all(self) -> None:
        """Calls `on_return` for every replica that answers, and for the others when they do."""
        for replica in self.replicas:
            replica.unchecked = True
            try:
                self._check_return(replica)
            except TryAgain as error:
                self._let_rest(replica, error)

    def awake(self) -> list[Replica]:
        """Those that answered when they were asked last."""
        now = time.monotonic()
        return [replica for replica in self.replicas if replica.resting_until <= now]

    def _check_return(self, replica: Replica) -> None:
        if self.on_return is None or not replica.unchecked:
            return
        with replica.checking:
            if replica.unchecked:
                self.on_return(replica)
                replica.unchecked = False

    def once(self, replica: Replica, path: str, body: Answer | None = None) -> Answer:
        """As `of`, without another try. Raises TryAgain where one might help."""
        url = f"{replica.url}{path}"
        try:
            method = "GET" if body is None else "POST"
            response = self._http.request(method, url, json=body)
        except httpx2.TransportError as error:
            words = self._told(first_line(error) or type(error).__name__)
            raise TryAgain(f"{url} does not answer ({words})", gone=True) from None
        status = response.status_code
        if status in (_TOO_MANY, _TIMED_OUT) or status >= _SERVER_FAULT:
            after = response.headers.get("retry-after", "")
            wait_s = float(after) if after.isdecimal() else 0.0
            words = f"{url} answers {status}: {self._told(response.text)}"
            raise TryAgain(words, wait_s=wait_s)
        if status >= 400:
            raise RefusedError(
                f"The server of {self.key} must serve what it is asked, but {url} answers "
                f"{status}: {self._told(response.text)}"
            )
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(
                f"The server of {self.key} must speak the OpenAI API, but {url} answers "
                f"{self._told(response.text)!r}; check {self.key}.url"
            )
        return answer

    def _told(self, text: str) -> str:
        """A server's words, short and without the key, which some repeat."""
        told = " ".join(text.split())
        if self._secret is not None:
            told = told.replace(self._secret.get_secret_value(), "***")
        return told[:_MOST_TOLD]
