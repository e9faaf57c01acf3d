"""A method of one's own without touching the package: from a file, an installed module, an entry point; at a site."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import pytest

from tests import own_method
from tests.laws.synthetic import everything, federation, rounds
from thinwire.config import from_dict
from thinwire.federation.settings import Site, load_site
from thinwire.methods import create, kind_of
from thinwire.own_methods import absolute, source_of
from thinwire.session.opened import method_of
from thinwire.settings import ConfigError
from thinwire.simulation.run import checked

CODE = Path(own_method.__file__)
HASH = hashlib.sha256(CODE.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a user works in, with mine.py."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(CODE, tmp_path / "mine.py")
    return tmp_path


@pytest.mark.parametrize("name", ["mine.py:OnlyB", "./mine.py:OnlyB", "tests.own_method:OnlyB"])
def test_a_method_of_one_s_own_is_used_like_any_other(folder, name):
    recipe = from_dict({"method": {"name": name, "turn": 2}, "values": {"precision": "float32"}})
    method = method_of(recipe)
    assert (method.name, method.turn, method.values.precision) == ("only-b", 2, "float32")
    own, other = (rounds(federation(used), 2)[0] for used in (create(name), create("ffa-lora")))
    assert everything(own) == everything(other)
    assert kind_of(name) is kind_of(name)


def test_a_run_finds_it_again_from_another_folder(folder, monkeypatch):
    recipe = checked(from_dict({"method": {"name": "mine.py:OnlyB"}}))
    monkeypatch.chdir("/")
    assert recipe.method["name"] == f"{folder / 'mine.py'}:OnlyB"
    assert method_of(recipe).name == "only-b"
    assert checked(recipe) == recipe
    assert absolute("fedit") == "fedit"
    assert absolute("package.module:Method") == "package.module:Method"


def test_an_installed_method_is_known_by_its_name(monkeypatch):
    point = importlib.metadata.EntryPoint("b-alone", "tests.own_method:OnlyB", "thinwire.methods")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert create("b-alone", {"turn": 3}).turn == 3
    with pytest.raises(ConfigError, match="'b-alon' is unknown; did you mean b-alone"):
        create("b-alon")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.py:OnlyB", "absent.py: No such file"),
        ("mine.py:Absent", "mine.py has no dataclass Absent that is a thinwire.method.Method"),
        ("mine.py:EXTRA", "mine.py has no dataclass EXTRA"),
        ("mine.py:", "allowed is my_file.py:MyMethod or package.module:MyMethod"),
        (":OnlyB", "allowed is my_file.py:MyMethod"),
        ("no.such:OnlyB", "No module named 'no'; allowed is"),
        ("thinwire.absent:OnlyB", "there is no module thinwire.absent"),
        ("broken.py:OnlyB", r"broken.py, line 2: NameError: name 'nothing' is not defined"),
        ("malformed.py:OnlyB", r"malformed.py, line 1: SyntaxError"),
        ("taken.py:OnlyB", "OnlyB.name = 'fedit' is another method's; allowed is a new one"),
        ("nameless.py:OnlyB", "OnlyB.name must be a text of letters"),
        ("mine.py:OnlyB", r"method.wrong is unknown"),
    ],
)
def test_what_is_wrong_with_it_is_named(folder, name, words):
    code = CODE.read_text(encoding="utf-8")
    (folder / "broken.py").write_text("import math\nnothing()\n")
    (folder / "malformed.py").write_text("class\n")
    (folder / "taken.py").write_text(code.replace('"only-b"', '"fedit"'))
    (folder / "nameless.py").write_text(code.replace('    name: ClassVar[str] = "only-b"\n', ""))
    with pytest.raises(ConfigError, match=words):
        create(name, {"wrong": 1} if "wrong" in words else {})


def test_the_bytes_that_were_hashed_are_run(folder):
    source = source_of("mine.py:OnlyB")
    assert source.sha256 == hashlib.sha256((folder / "mine.py").read_bytes()).hexdigest()
    kind = create("mine.py:OnlyB").trains.__func__
    (folder / "mine.py").write_text(CODE.read_text(encoding="utf-8").replace('"b", EXTRA', '"a", EXTRA'))
    assert create("mine.py:OnlyB").trains.__func__ is not kind
    assert source.sha256 == HASH, "read once"


def site(folder: Path, **methods: str) -> Site:
    return Site(folder, "north", methods={f"{name}.py:OnlyB": value for name, value in methods.items()})


@pytest.mark.parametrize("name", ["mine.py:OnlyB", "/home/server/mine.py:OnlyB", "../../mine.py:OnlyB"])
def test_a_site_runs_its_own_copy_of_what_its_owner_allows(folder, name):
    server = from_dict({"method": {"name": name, "turn": 2}})
    here = site(folder, mine=HASH.upper()).recipe(server)
    assert here.method == {"name": f"{folder / 'mine.py'}:OnlyB", "turn": 2}
    assert site(folder).recipe(from_dict({"method": {"name": "flocora"}})).method == {"name": "flocora"}


def test_a_site_refuses_other_code_by_name_and_imports_nothing(folder, monkeypatch):
    (folder / "evil.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(folder)
    for name in ("mine.py:OnlyB", "evil:Method", "evil.sub:Method", "evil.py:Method", "b-alone", "local.py:x"):
        with pytest.raises(ConfigError, match=f"method.name = '{name}': code that this site does not allow"):
            site(folder, other=HASH).recipe(from_dict({"method": {"name": name}}))
    with pytest.raises(ConfigError, match=rf"this site has SHA-256 {HASH}, and its site.toml allows 0+ only"):
        site(folder, mine="0" * 64).recipe(from_dict({"method": {"name": "mine.py:OnlyB"}}))
    with pytest.raises(ConfigError, match=r"absent.py: No such file"):
        site(folder, absent=HASH).recipe(from_dict({"method": {"name": "absent.py:OnlyB"}}))


def test_a_site_s_owner_names_code_in_site_toml(folder):
    (folder / "site.toml").write_text(f'name = "north"\n[methods]\n"mine.py:OnlyB" = "{HASH}"\n')
    assert load_site(folder).methods == {"mine.py:OnlyB": HASH}
    (folder / "site.toml").write_text('name = "north"\n[methods]\n"mine.py:OnlyB" = "abc"\n')
    with pytest.raises(ConfigError, match=r"= 'abc': allowed is its SHA-256, 64 hex digits"):
        load_site(folder)
