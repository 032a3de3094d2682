"""What a device tells of itself."""

from __future__ import annotations

from pathlib import Path

from mesh.core.card import check_card
from mesh.observe.facts import node_facts


def test_this_machine_can_describe_itself() -> None:
    facts = node_facts("/")
    assert facts["cpu_cores"] >= 1
    assert facts["memory_bytes"] > 1 << 20
    assert facts["storage_bytes"] > 1 << 20
    assert "process" in facts["capabilities"]
    check_card(facts)


def test_capabilities_are_found_by_their_devices(tmp_path: Path) -> None:
    for path in (
        "dev/dri/renderD128",
        "sys/class/fpga_manager/fpga0",
        "sys/bus/iio/devices/iio0",
        "run/docker.sock",
    ):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="X"\nPRETTY_NAME="Test OS 1"\n')
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Zurich")
    facts = node_facts(str(tmp_path), tmp_path, {"PATH": "", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert facts["capabilities"] == ["container", "fpga", "gpu", "kubernetes", "process", "sensors"]
    assert facts["os"] == "Test OS 1"
    assert facts["timezone"] == "Europe/Zurich"


def test_what_cannot_be_measured_is_left_out(tmp_path: Path) -> None:
    facts = node_facts(str(tmp_path / "absent"), tmp_path, {"PATH": ""})
    assert "storage_bytes" not in facts
    assert facts["capabilities"] == ["process"]
    assert facts["timezone"] == "UTC"
