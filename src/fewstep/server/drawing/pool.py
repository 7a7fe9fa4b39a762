"""A few threads for work that strangers cause, beside the event loop and the drawing threads: decoding, judging, signing.

Threads and not processes: Pillow's and simplejpeg's decoders, zlib and the signer's hashes let go of the interpreter while
they work, and what a picture may cost is bounded before it is begun. A hop to a thread and back took .03 ms for a 64 px
picture where one to a process took .17, and 3 MB of pixels less had to be copied (docs/log.md).
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..sessions.scheduler import ClientKey, FairQueueing
from ..wire.protocol import ProtocolError

T = TypeVar("T")


class Pool:
    """Runs what is handed in, in fair turn between client keys. One address never holds all threads where there are several.

    ``patient`` work leaves the processor to whoever else wants it, above all to who draws.
    """

    def __init__(self, threads: int, name: str, most: int = 64, patient: bool = False) -> None:
        self._lock = threading.Condition()
        self._fairness = FairQueueing()
        self._waiting: dict[ClientKey, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._running: Counter[str] = Counter()
        self._waits: Counter[str] = Counter()
        self._each, self._most, self._closed = max(1, threads - 1), most, False
        self._threads = [
            threading.Thread(target=self._run, name=f"fewstep-{name}-{n}", daemon=True) for n in range(threads)
        ]
        self._started, self._patient = False, patient

    def submit(self, client_key: ClientKey, call: Callable[[], T]) -> Future[T]:
        """Queue ``call``; returns its future. Raises ProtocolError if this address has too many calls waiting."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            if self._waits[client_key[0]] >= self._most:
                raise ProtocolError(
                    "busy", f"{self._most} requests of this address wait here already: try again in a second"
                )
            if not self._started:
                self._started = True
                for thread in self._threads:
                    thread.start()
            self._waiting.setdefault(client_key, deque()).append((future, call))
            self._waits[client_key[0]] += 1
            self._fairness.join(client_key)
            self._lock.notify()
        return future

    def close(self) -> None:
        """Cancel every call that has not begun."""
        with self._lock:
            self._closed = True
            dropped = [future for jobs in self._waiting.values() for future, _ in jobs]
            self._waiting.clear()
            self._lock.notify_all()
        for future in dropped:
            future.cancel()

    def _next(self) -> tuple[ClientKey, Future[Any], Callable[[], Any]] | None:
        free = [client_key for client_key in self._waiting if self._running[client_key[0]] < self._each]
        if not free:
            return None
        client_key = min(free, key=self._fairness.place)
        jobs = self._waiting[client_key]
        future, call = jobs.popleft()
        if not jobs:
            del self._waiting[client_key]
        self._fairness.serve(client_key)
        self._running[client_key[0]] += 1
        self._waits[client_key[0]] -= 1
        if not self._waits[client_key[0]]:
            del self._waits[client_key[0]]
        return client_key, future, call

    def _run(self) -> None:
        if self._patient and sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 10)
        while True:
            with self._lock:
                while (job := self._next()) is None:
                    if self._closed:
                        return
                    self._lock.wait()
            client_key, future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            with self._lock:
                self._running[client_key[0]] -= 1
                if not self._running[client_key[0]]:
                    del self._running[client_key[0]]
                self._fairness.leave(client_key)
                self._lock.notify()
