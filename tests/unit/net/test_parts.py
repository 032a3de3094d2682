"""The light import of py-libp2p: what it loads, and what happens where it does not work."""

import json
import subprocess
import sys

import pytest

from mesh.identity.keys import NodeKey

LOADED = """
import json, sys
import trio
import mesh.net.host, mesh.net.datagram
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps({"modules": sorted(sys.modules), "mib": pages * 4096 / 2**20}))
"""
# Packages that come with py-libp2p and have no business in an agent.
UNWANTED = {
    "Crypto",
    "OpenSSL",
    "aioquic",
    "anyio",
    "asyncio",
    "coincurve",
    "dns",
    "fastecdsa",
    "httpx",
    "miniupnpc",
    "netaddr",
    "prometheus_client",
    "psutil",
    "requests",
    "rich",
    "service_identity",
    "trio_typing",
    "trio_websocket",
    "urllib3",
    "wsproto",
    "zeroconf",
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_an_agents_network_loads_only_the_parts_it_uses():
    loaded = json.loads(run(LOADED).stdout)
    tops = {name.split(".")[0] for name in loaded["modules"]}
    assert not tops & UNWANTED
    real = [name for name in loaded["modules"] if name.startswith("libp2p.")]
    for part in ("bitswap", "host", "kad_dht", "network", "relay", "stream_muxer", "transport.tcp"):
        assert not [name for name in real if name.startswith(f"libp2p.{part}")]
    assert loaded["mib"] < 50


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ('"libp2p.transport", ', ""),  # a package file runs that should not
        ('"libp2p.pubsub",', '"libp2p.pubsub", "libp2p.peer.id",'),  # what is needed is a stand-in
    ],
)
def test_where_the_light_import_fails_the_plain_one_takes_over_with_a_warning(there, instead):
    program = f"""
import logging
logging.basicConfig(level=logging.WARNING)
import importlib.util, sys
import mesh.net
spec = importlib.util.find_spec("mesh.net.parts")
source = open(spec.origin).read()
assert {there!r} in source
module = importlib.util.module_from_spec(spec)
sys.modules["mesh.net.parts"] = module
exec(compile(source.replace({there!r}, {instead!r}), spec.origin, "exec"), module.__dict__)
pair = module.new_identity(bytes(32))
print(module.PeerId.from_pubkey(pair.public_key).to_base58())
print("libp2p.host.basic_host" in sys.modules)
"""
    done = run(program)
    assert done.stdout.split() == [NodeKey.from_seed(bytes(32)).peer_id, "True"]
    assert "libp2p is loaded whole" in done.stderr


def test_a_part_that_is_not_loaded_refuses_to_be_used():
    program = """
import mesh.net.parts
from libp2p.crypto.serialization import deserialize_public_key
from libp2p.crypto.pb import crypto_pb2
for kind in (0, 2):  # RSA, secp256k1
    raw = crypto_pb2.PublicKey(key_type=kind, data=b"x" * 32).SerializeToString()
    try:
        deserialize_public_key(raw)
    except ValueError as error:
        print(error)
"""
    assert run(program).stdout.count("is not loaded") == 2


def test_peer_ids_are_those_of_libp2p():
    program = """
import mesh.net.parts as parts
from mesh.identity.keys import NodeKey
for number in range(50):
    seed = bytes([number] * 32)
    peer_id = parts.PeerId.from_pubkey(parts.new_identity(seed).public_key)
    assert peer_id.to_base58() == NodeKey.from_seed(seed).peer_id
"""
    run(program)
