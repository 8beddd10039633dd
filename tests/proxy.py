"""A line from a client to a PostgreSQL server that can be cut in the worst moment: at COMMIT."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import sqlalchemy as sa

# Before the server has heard of the COMMIT, or after it has done it and before the client hears.
Moment = Literal["before", "after"]


class Proxy:
    """Pass everything on between ``url`` and the server, but cut at the COMMITs to come.

    ``cuts`` says where each of them is cut, the first one first; what is not in it goes through.
    With ``for_good`` nobody can connect any more after the last of them. ``asked`` is what the
    clients have sent, each time that they wait for an answer.
    """

    def __init__(self, url: str, *cuts: Moment, for_good: bool = False) -> None:
        server = sa.make_url(url)
        self._server = (server.host or "127.0.0.1", server.port or 5432)
        self._cuts = list(cuts)
        self._for_good = for_good
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[_Line] = []
        self.asked: list[bytes] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self.url = (
            server.set(host="127.0.0.1", port=self._listener.getsockname()[1])
            # What is encrypted cannot be listened to.
            .update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
            .render_as_string(hide_password=False)
        )

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hang_up()
        for line in self._lines:
            line.close()

    @property
    def left(self) -> int:
        """How many cuts are still to come."""
        return len(self._cuts)

    def next_cut(self) -> Moment | None:
        cut = self._cuts.pop(0) if self._cuts else None
        if cut is not None and not self._cuts and self._for_good:
            self._hang_up()
        return cut

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._lines.append(_Line(self, client, socket.create_connection(self._server)))

    def _hang_up(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class _Line:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._is_to_be_cut = False
        for pump in (self._ask, self._answer):
            threading.Thread(target=pump, daemon=True).start()

    def _ask(self) -> None:
        with suppress(OSError):
            while said := self._client.recv(65_536):
                self._proxy.asked.append(said)
                cut = self._proxy.next_cut() if b"COMMIT\0" in said else None
                if cut == "before":
                    break
                self._is_to_be_cut = cut == "after"
                self._server.sendall(said)
        if not self._is_to_be_cut:
            self.close()

    def _answer(self) -> None:
        with suppress(OSError):
            while said := self._server.recv(65_536):
                if self._is_to_be_cut:
                    break
                self._client.sendall(said)
        self.close()

    def close(self) -> None:
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
