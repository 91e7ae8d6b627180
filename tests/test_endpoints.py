"""Where trainers listen: private, on loopback, and clear about what is wrong."""

import socket
import stat
from pathlib import Path

import pytest

from online_synclr.config.schema import StreamConfig
from online_synclr.stream.endpoints import (
    ipc_endpoint,
    make_endpoint,
    reachable,
    tcp_endpoint,
)
from online_synclr.stream.errors import StreamError
from online_synclr.topology import transport_of
from tests.stream_ends import receiving
from tests.stream_helpers import FakeSink


def test_ipc_folders_are_private_and_removed() -> None:
    endpoint = ipc_endpoint()
    assert endpoint.folder is not None
    assert stat.S_IMODE(endpoint.folder.stat().st_mode) == 0o700
    with receiving(FakeSink(), endpoint):
        assert (endpoint.folder / "groups").is_socket()
    assert not endpoint.folder.exists()


def test_a_path_too_long_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(StreamError, match=r"stream\.transport"):
        ipc_endpoint(deep)
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org", "*", ""])
def test_listening_beyond_loopback_without_keys_is_refused(host: str) -> None:
    with pytest.raises(StreamError, match=r"stream\.host .*CURVE"):
        tcp_endpoint(host)


def test_a_wildcard_is_never_given_to_others() -> None:
    assert reachable("tcp://0.0.0.0:7", "10.0.0.5") == "tcp://10.0.0.5:7"
    assert reachable("tcp://[::]:7", "fd00::5") == "tcp://[fd00::5]:7"
    assert reachable("tcp://0.0.0.0:7") not in ("tcp://0.0.0.0:7", "tcp://:7")
    for address in ("tcp://127.0.0.1:7", "tcp://[::1]:7", "ipc:///tmp/0.0.0.0:7"):
        assert reachable(address) == address


@pytest.mark.parametrize(
    ("stream", "one_host", "transport"),
    [
        ({}, True, "ipc"),
        ({}, False, "tcp"),
        ({"host": "0.0.0.0"}, True, "tcp"),
        ({"transport": "tcp"}, True, "tcp"),
    ],
)
def test_a_unix_socket_where_all_are_on_one_host(
    stream: dict[str, str], one_host: bool, transport: str
) -> None:
    assert transport_of(StreamConfig.model_validate(stream), one_host=one_host) == transport


def test_a_busy_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = make_endpoint("tcp", "localhost", port - 1, 1)
        with (
            pytest.raises(StreamError, match=rf"{port} is in use.*stream\.port"),
            receiving(FakeSink(), endpoint),
        ):
            pass
