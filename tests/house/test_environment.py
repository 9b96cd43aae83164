"""Protects the pinned set: lock, conda environment, package ranges and documentation say the same.

    pytest tests/house/test_environment.py

Conda channels are not asked: that environment.yml can be solved is not tested here, only what it asks for.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = [f"3.{minor}" for minor in (11, 12, 13, 14)]


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = script("lock")


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    assert len({canonicalize_name(r.name) for r in found}) == len(found)
    return {canonicalize_name(r.name): r for r in found}


def direct() -> list[Requirement]:
    project = PROJECT["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    return [
        Requirement(line)
        for line in [*project["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    ]


def pinned_version(pin: Requirement) -> str:
    (only,) = pin.specifier
    assert only.operator == "=="
    return only.version


def test_every_direct_dependency_is_pinned_within_the_range_that_the_package_accepts():
    locked = pins()
    outside = [
        str(r) for r in direct() if pinned_version(locked[canonicalize_name(r.name)]) not in r.specifier
    ]
    assert outside == []


def test_a_direct_dependency_is_pinned_for_every_python_and_system():
    locked = pins()
    assert [r.name for r in direct() if locked[canonicalize_name(r.name)].marker is not None] == []


def test_every_marker_in_the_lock_decides_something():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if line[0] != "#" and LOCK.simplify(line) != line] == []


def test_no_cuda_package_is_pinned():
    assert [name for name in pins() if name.startswith(LOCK.GPU_ONLY)] == []


def test_what_the_data_set_digest_depends_on_is_held():
    assert {str(pins()[canonicalize_name(Requirement(line).name)]) for line in LOCK.HELD} == set(LOCK.HELD)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("pexpect==4.9.0 ; sys_platform != 'win32'", "pexpect==4.9.0"),
        ("pywinpty==3.1.2 ; os_name == 'nt'", None),
        ("nvidia-nccl-cu13==2.29.7 ; sys_platform == 'linux'", None),
        ("appnope==1.0.0 ; sys_platform == 'darwin'", "appnope==1.0.0 ; sys_platform == 'darwin'"),
        ("tomli==2.0.1 ; python_full_version < '3.11'", None),
        ("x==1 ; python_full_version <= '3.11.5'", "x==1 ; python_full_version <= '3.11.5'"),
    ],
)
def test_the_lock_keeps_a_marker_only_where_it_decides(line, kept):
    assert LOCK.simplify(line) == kept


def test_conda_gets_python_and_pip_from_conda_and_the_rest_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert (environment["name"], environment["channels"], pip) == ("llmkit", ["conda-forge"], "pip")
    assert python.split()[0] == "python"
    assert SpecifierSet(python.split()[1]) == SpecifierSet(PROJECT["project"]["requires-python"])
    index = f"--extra-index-url {script('install').CPU_INDEX}"
    assert rest == {"pip": [index, "-r requirements.lock", "-e ."]}


def test_the_same_pythons_are_named_everywhere():
    accepted = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [p for p in ["3.10", *PYTHONS, "3.15"] if p in accepted] == PYTHONS
    assert sorted({e["python_version"] for e in LOCK.environments()}) == PYTHONS
    assert "(3, 11) <= sys.version_info[:2] < (3, 15)" in (ROOT / "Makefile").read_text()


def test_every_direct_dependency_says_what_it_earns_its_place_with():
    lines = re.findall(r"^- `([\w.-]+)`: \S.{20,}$", (ROOT / "docs" / "dependencies.md").read_text(), re.M)
    assert sorted(lines) == sorted({canonicalize_name(r.name) for r in direct()})
