"""OpenStack Swift with its S3 interface, in one process on the loopback interface.

python swift_process.py FOLDER KEY SECRET

Prints the port, serves until its standard input ends, leaves nothing behind but FOLDER. One device,
one replica, no auditors or replicators.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import eventlet.wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.storage_policy import reload_storage_policies  # noqa: E402
from swift.common.utils import NullLogger, set_swift_dir  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402

PIPELINE = (
    "catch_errors gatekeeper listing_formats bulk s3api tempauth copy slo dlo versioned_writes"
)
STORAGE = ("account", "container", "object")


def ring(folder: Path, kind: str, port: int) -> None:
    """Everything lies on one device."""
    builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
    builder.add_dev(
        {
            "id": 0,
            "region": 1,
            "zone": 1,
            "ip": "127.0.0.1",
            "port": port,
            "device": "disk",
            "weight": 1.0,
        }
    )
    builder.rebalance()
    builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def configuration(folder: Path, kind: str) -> str:
    """Of an account, container or object server."""
    return f"""
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
recon_cache_path = {folder}/recon
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


def proxy_configuration(folder: Path, key: str, secret: str) -> str:
    """Of the proxy server, which speaks S3."""
    account, user = key.split(":")
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n"
        for name in PIPELINE.split()
        if name != "tempauth"
    )
    return f"""
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = {PIPELINE} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret} .admin
{filters}
"""


class Memory:
    """In place of memcached, which tempauth insists on."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str, **_: Any) -> Any:
        return self._values.get(key)

    def set(self, key: str, value: Any, **_: Any) -> None:
        self._values[key] = json.loads(json.dumps(value))

    def delete(self, key: str, **_: Any) -> None:
        self._values.pop(key, None)


def with_memory(app: Callable[..., Any]) -> Callable[..., Any]:
    """The app, with a cache in its environment."""
    memory = Memory()

    def call(env: dict[str, Any], start: Any) -> Any:
        return app({**env, "swift.cache": memory}, start)

    return call


def main(folder: Path, key: str, secret: str) -> None:
    """Serve."""
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "recon").mkdir()
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
    )
    set_swift_dir(str(folder))
    reload_storage_policies()
    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in (*STORAGE, "proxy")}
    for kind in STORAGE:
        ring(folder, kind, sockets[kind].getsockname()[1])
    for kind, socket in sockets.items():
        file = folder / f"{kind}-server.conf"
        file.write_text(
            proxy_configuration(folder, key, secret)
            if kind == "proxy"
            else configuration(folder, kind)
        )
        app = loadapp(str(file))
        eventlet.spawn(
            eventlet.wsgi.server,
            socket,
            with_memory(app) if kind == "proxy" else app,
            NullLogger(),
            protocol=SwiftHttpProtocol,
            max_size=256,
        )
    print(sockets["proxy"].getsockname()[1], flush=True)
    eventlet.tpool.execute(sys.stdin.read)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
