# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The package's files agree with each other, and it works without ROS and when it is installed by pip."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import arvrm_ros
from arvrm_ros import cli, errors, suite
from arvrm_ros.resources import package_share

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ElementTree.parse(ROOT / "package.xml").getroot()

WITHOUT_ROS = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"rclpy", "launch", "launch_ros", "sensor_msgs", "std_msgs", "geometry_msgs"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import arvrm_ros
for module in pkgutil.walk_packages(arvrm_ros.__path__, "arvrm_ros."):
    parts = module.name.split(".")
    if parts[1] not in ("nodes", "launching", "msg", "srv", "action") and parts[-1] != "__main__":
        importlib.import_module(module.name)
        print(module.name)
"""


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_but_the_nodes_imports_without_ros():
    imported = run(sys.executable, "-c", WITHOUT_ROS).split()
    for expected in ("arvrm_ros.policies", "arvrm_ros.bringup", "arvrm_ros.commands.up", "arvrm_ros.motion.executor"):
        assert expected in imported


def test_only_nodes_import_ros():
    allowed = [ROOT / "arvrm_ros" / "nodes", ROOT / "arvrm_ros" / "launching.py"]
    ros = {"rclpy", "launch", "launch_ros", "builtin_interfaces"}
    for file in (ROOT / "arvrm_ros").rglob("*.py"):
        if not any(file.is_relative_to(place) for place in allowed):
            found = {name for name in imports(file) if name in ros or name.endswith("_msgs")}
            assert not found, f"{file} imports {found}"


def test_no_callback_awaits():
    """rclpy calls a callback that awaits again and again until it ends, which takes a whole core."""
    for file in (ROOT / "arvrm_ros" / "nodes").glob("*.py"):
        waiting = [n.lineno for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.AsyncFunctionDef)]
        assert not waiting, f"{file}:{waiting}"


def test_package_xml_declares_every_ros_package_that_is_imported():
    declared = {element.text for element in PACKAGE if element.tag.endswith("depend")}
    for file in [*(ROOT / "arvrm_ros" / "nodes").glob("*.py"), ROOT / "arvrm_ros" / "launching.py"]:
        needed = {
            n for n in imports(file) if n.endswith(("_msgs", "_srvs", "_interfaces")) or n in ("rclpy", "launch_ros")
        }
        assert needed <= declared, f"{file} imports {needed - declared}"


def test_one_version_and_one_licence():
    assert PACKAGE.findtext("version") == arvrm_ros.__version__
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{arvrm_ros.__version__}"' in project
    assert PACKAGE.findtext("license") == "Apache-2.0"
    assert 'license = "Apache-2.0"' in project


def test_every_source_file_names_its_licence():
    tracked = run("git", "ls-files", "*.py", "*.sh", "CMakeLists.txt", "Makefile", cwd=ROOT).split()
    assert len(tracked) > 40
    for name in tracked:
        assert "SPDX-License-Identifier: Apache-2.0" in (ROOT / name).read_text(encoding="utf-8")[:200], name


def test_every_launch_file_is_a_suite_and_every_suite_has_one():
    files = {file.name.removesuffix(".launch.py"): file for file in (ROOT / "launch").glob("*.launch.py")}
    assert files.keys() == suite.SUITES.keys()
    for name, file in files.items():
        assert f'return describe("{name}")' in file.read_text(encoding="utf-8")


def test_every_node_of_the_table_is_a_module_with_an_executable():
    for name in (suite.MANAGER, *(node.name for node in suite.NODES)):
        tree = ast.parse((ROOT / "arvrm_ros" / "nodes" / f"{name}.py").read_text(encoding="utf-8"))
        assert any(isinstance(item, ast.FunctionDef) and item.name == "main" for item in tree.body), name
        assert (Path(sys.prefix) / "lib" / "arvrm_ros" / name).is_file() or not built(), f"run make build: {name}"


def test_every_command_exists():
    for name in cli.COMMANDS:
        assert (ROOT / "arvrm_ros" / "commands" / f"{name}.py").is_file(), name


def built() -> bool:
    return (Path(sys.prefix) / "share" / "arvrm_ros" / "package.xml").is_file()


@pytest.mark.skipif(not built(), reason="the interfaces are not built into this environment")
def test_error_codes_are_those_of_the_actions():
    from arvrm_ros.action import ExecuteChunk, FollowInstruction

    for codes, action in ((errors.ExecutionCode, ExecuteChunk), (errors.InstructionCode, FollowInstruction)):
        constants = {k: v for k, v in vars(type(action.Result)).items() if k.isupper()}
        constants |= {k: getattr(action.Result, k) for k in codes.__members__}
        assert {code.name: code.value for code in codes} == {k: v for k, v in constants.items() if isinstance(v, int)}


def test_sources_are_found_beside_the_built_interfaces_from_any_folder(tmp_path):
    if not built():
        pytest.skip("the interfaces are not built into this environment")
    code = "import arvrm_ros.msg, arvrm_ros.contract as c; print(c.__file__, arvrm_ros.msg.ActionChunk.__name__)"
    for folder in (ROOT, tmp_path):
        assert run(sys.executable, "-c", code, cwd=folder).split() == [
            str(ROOT / "arvrm_ros/contract.py"),
            "ActionChunk",
        ]


def test_pip_installs_the_package_with_its_files(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"  # a copy: pip builds inside the folder it is given
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, source)
    code = (
        "import arvrm_ros, arvrm_ros.policies, arvrm_ros.contract as c, arvrm_ros.resources as r;"
        "print(arvrm_ros.__file__, r.package_share(), c.load_contract('tabletop').urdf_path().is_file())"
    )
    where, share, urdf = run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(target)}).split()
    assert (Path(where).parent, Path(share), urdf) == (target / "arvrm_ros", target / "share/arvrm_ros", "True")
    assert package_share() == ROOT
    shipped = {str(file.relative_to(share)) for file in Path(share).rglob("*") if file.is_file()}
    assert {"package.xml", "config/fastdds.xml", "config/robots/tabletop.yaml", "urdf/panda.urdf"} <= shipped


def imports(file: Path) -> set[str]:
    """Top-level names of what a file imports."""
    names = set()
    for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
            names.add(item.module.partition(".")[0])
    return names
