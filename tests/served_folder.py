"""A folder over HTTP, for a browser that must load nothing from files."""

import functools
import http.server
import threading
import time
from pathlib import Path
from typing import Any


class ServedFolder:
    """The folder over HTTP on a free port, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> "ServedFolder":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.1)
        self._server.shutdown()
        self._server.server_close()
