"""A RabbitMQ of the run's own: Debian's server on free ports, or the one that TEST_AMQP_URL names."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
_READY_SECONDS = 60.0


@contextmanager
def running() -> Iterator[str | None]:
    """Its AMQP address; None, said loudly, where there is no server to start."""
    given = os.environ.get("TEST_AMQP_URL")
    program = next((found for found in map(shutil.which, _SERVERS) if found), None)
    if given or program is None:
        if not given:
            print("!! RabbitMQ is not installed (Debian: rabbitmq-server) and TEST_AMQP_URL is not set: P5 and half of P4 are left out")
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="tollgate-rabbit-") as directory:
        port, distribution, mapper = _free_port(), _free_port(), _free_port()
        process = subprocess.Popen(
            [program],
            env={**os.environ, **_environment(directory, port=port, distribution=distribution, mapper=mapper)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait_for(port, process)
            yield f"amqp://guest:guest@127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
            subprocess.run(["epmd", "-port", str(mapper), "-kill"], check=False, capture_output=True)


def _environment(directory: str, *, port: int, distribution: int, mapper: int) -> dict[str, str]:
    Path(directory, "enabled_plugins").write_text("[].\n")
    return {
        "HOME": directory,
        "RABBITMQ_NODENAME": f"tollgate{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(distribution),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": f"{directory}/mnesia",
        "RABBITMQ_LOG_BASE": f"{directory}/log",
        "RABBITMQ_PID_FILE": f"{directory}/pid",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/enabled_plugins",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(7):
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("RabbitMQ did not start")
