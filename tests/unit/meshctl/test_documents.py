"""Files that people write, as meshctl reads them."""

import pytest

from mesh.errors import UsageError
from meshctl import documents

WEB = {"name": "web", "command": ["/bin/sleep", "9"], "env": {"PORT": "80"}}
SPELT = {
    "web.toml": 'name = "web"\ncommand = ["/bin/sleep", "9"]\n[env]\nPORT = "80"\n',
    "web.json": '{"name": "web", "command": ["/bin/sleep", "9"], "env": {"PORT": "80"}}',
    "web.yaml": "name: web\ncommand: [/bin/sleep, '9']\nenv:\n  PORT: '80'\n",
}


@pytest.mark.parametrize("name", sorted(SPELT))
def test_a_workload_may_be_written_in_toml_json_and_yaml(tmp_path, name):
    path = tmp_path / name
    path.write_text(SPELT[name])
    assert documents.read(str(path), "workload") == [WEB]


def test_a_yaml_file_may_hold_several_documents(tmp_path):
    path = tmp_path / "two.yml"
    path.write_text("name: a\n---\nname: b\n---\n")
    assert documents.read(str(path), "workload") == [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize("text", ["a: [", "!!python/object/apply:os.system [id]", "just words", ""])
def test_what_is_no_yaml_document_is_refused_by_its_path(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        documents.read(str(path), "workload")
