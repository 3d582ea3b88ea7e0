"""Each example in the help of a command, run as it stands there against a live mesh.

The mesh has what the examples name: sweeps called few_shot and batch_composition,
nodes gpu1 to gpu3, a data set pascal5i, job files and folders. Only what can't be
the same everywhere is put in place of what is printed: the hashes of bases, the
word of a token, folders outside of the test's own.

`CASES` says of an example what is not so of others: that it comes late since it
changes the mesh, that it has another exit code, or that it is only parsed, and why.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from mesh import Mesh, NewMesh
from typer.testing import CliRunner

from meshtrain.cli.complete_names import names_of
from meshtrain.cli.completion_table import places
from meshtrain.cli.context import Cli
from meshtrain.cli.main import build
from meshtrain.core.member import MemberKind

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_examples")]

NODES = ("gpu1", "gpu2", "gpu3")
FEW_SHOT = """
name: few_shot
base:
  command: "echo {backbone} > {output}/model"
  params: {backbone: "{backbone}"}
command: "cat {base}/model; echo {{\\"miou\\": 0.{shots}{fold}}} > {output}/results.json"
matrix: {dataset: [pascal5i, coco20i], backbone: [resnet50, resnet101], shots: [5], fold: [2, 3]}
results: {file: results.json, metric: miou, over: fold}
"""
FEW_SHOT_LONG = FEW_SHOT.replace("few_shot", "few_shot_long").replace(
    "dataset: [pascal5i, coco20i]", "dataset: [pascal5i]"
)
BATCHES = """
name: batch_composition
command: >-
  echo {target_batch_pct} {fold};
  echo {{\\"accuracy\\": {target_batch_pct}}} > {output}/metrics.json
matrix: {target_batch_pct: [0.1, 0.25], fold: [0, 1]}
results: {metric: accuracy, over: fold}
"""


class Case(NamedTuple):
    """What an example of a help text does that others don't."""

    stage: int = 1
    """Those of a later stage come later: they change what others see."""
    codes: tuple[int, ...] = (0,)
    says: str = ""
    """Words that it must print, on either stream."""
    parsed: str = ""
    """Why it is only parsed here: what else runs it."""
    pipe: str = ""
    """What comes from the other side of a pipe."""


CASES: dict[str, Case] = {
    "meshtrain demo": Case(parsed="takes a minute; `make demo` and CI run it"),
    "meshtrain demo --workers 2 --output try-it": Case(parsed="as above"),
    "meshtrain chaos --for 10m": Case(parsed="hurts for ten minutes; test_e2e_chaos runs it"),
    "meshtrain chaos --for 30s --seed 7 --hurt worker,link --json": Case(parsed="as above"),
    "meshtrain chaos --mild --lease 30s --hurt master,worker,spawner": Case(parsed="as above"),
    "meshtrain install --systemd --worker --start": Case(
        parsed="changes the host; boot.py runs it"
    ),
    "meshtrain install --systemd --master --dry-run": Case(parsed="as above"),
    "meshtrain install --systemd --worker --uninstall": Case(parsed="as above"),
    "sudo meshtrain doctor --json": Case(codes=(0, 1), says='"check'),
    "meshtrain doctor": Case(codes=(0, 1), says="ok"),
    "meshtrain doctor --as worker --config /etc/meshtrain/worker.toml": Case(codes=(0, 1)),
    "meshtrain submit batch_composition.yaml": Case(stage=0, says="jobs     4"),
    "meshtrain submit few_shot.yaml --wait": Case(stage=0, says="8 jobs succeeded"),
    "meshtrain publish data/pascal5i --name pascal5i": Case(stage=0, says="pascal5i@1"),
    "meshtrain publish masks.zip --name masks": Case(stage=0, says="masks@1"),
    "meshtrain jobs few_shot --state failed": Case(says="No such jobs"),
    "meshtrain logs -f base/7f3a": Case(says="succeeded"),
    "meshtrain logs batch_composition/target_batch_pct=0.25,fold=1": Case(says="0.25 1"),
    "meshtrain logs batch_composition/target_batch_pct=0.25,fold=1 -n 20": Case(says="0.25 1"),
    "meshtrain results few_shot few_shot_long --html few_shot.html": Case(says="few_shot_long"),
    "meshtrain why base/7f3a": Case(says="succeeded"),
    "meshtrain record monday.mesh": Case(parsed="until it is stopped; test_cli_record runs it"),
    "meshtrain record monday.mesh --add --for 8h": Case(parsed="as above"),
    "meshtrain budget few_shot --gpu-hours 40": Case(says="40"),
    "meshtrain budget few_shot --unlimited": Case(stage=2),
    "meshtrain token --revoke prometheus": Case(stage=2),
    "meshtrain results few_shot.yaml --from gpu1/few_shot --from gpu2/few_shot": Case(codes=(0, 1)),
    "meshtrain bases evict 7f3a --node gpu1": Case(stage=2, codes=(0, 2)),
    "meshtrain bases rebuild 7f3a": Case(stage=3),
    "meshtrain bases restore 7f3a": Case(codes=(2,), says="archive"),
    "meshtrain nodes release gpu1": Case(codes=(2,), says="no GPU of gpu1 is out of use"),
    "meshtrain retry base/7f3a": Case(says="Nothing to retry"),
    "meshtrain cancel few_shot": Case(stage=3),
    "meshtrain cancel 'few_shot/*fold=3'": Case(stage=2),
    "meshtrain drain gpu3": Case(stage=2, says="is drained"),
    "meshtrain drain gpu3 --within 10m": Case(stage=2, says="is drained"),
    "meshtrain drain gpu3 --undo": Case(stage=3, says="takes jobs again"),
    "meshtrain nodes revoke gpu3": Case(stage=4, says="no member any more"),
    "meshtrain nodes revoke --person alice": Case(stage=4, says="alice"),
    "meshtrain join mt1.k6Nk...": Case(says="person"),
    "meshtrain join --node --name gpu4 mt1.k6Nk...": Case(says="node gpu4 joined"),
    "ssh gpu-lab meshtrain token --person | cut -d' ' -f3 | meshtrain join -": Case(
        says="joined the mesh", pipe="token"
    ),
    "meshtrain backup mesh-monday.backup": Case(stage=5),
    "meshtrain --home /var/lib/meshtrain/master backup /srv/mesh.backup --force": Case(stage=5),
    "meshtrain restore mesh-monday.backup": Case(stage=7, says="restored"),
    "meshtrain --home /var/lib/meshtrain/master restore /srv/mesh.backup": Case(
        stage=7, says="restored"
    ),
}
SECOND_AFTER = "meshtrain submit few_shot.yaml --wait"
"""What is compared with few_shot comes after it: so the bases are as the examples name them."""
CUT_WITHIN_S = 0.09
STOPPED = 6
"""From the stage after this on, the master is stopped."""


def examples() -> Iterator[str]:
    """The lines of all help texts that begin with a call of meshtrain, below `Example`."""
    group: Any = typer.main.get_command(build())
    runner = CliRunner()
    with group.make_context("meshtrain", ["jobs"]) as context:
        paths = [place.path for place in places(group, context) if place.path]
    for path in paths:
        text = runner.invoke(build(), [*path.split(), "--help"], prog_name="meshtrain").output
        _, found, below = text.partition("Example")
        lines = re.findall(
            r"^(?: {4,}|: )((?:sudo |ssh \S+ )?meshtrain .*?)\s*$", below, re.MULTILINE
        )
        assert found and lines, f"the help of {path} has no example"
        yield from lines


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    mesh = new_module_mesh(secure=True)
    mesh.start(*NODES, cpu_slots=2)
    return mesh


@pytest.fixture
def world(mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    folder = tmp_path / "here"
    (folder / "data" / "pascal5i").mkdir(parents=True)
    (folder / "data" / "pascal5i" / "images").write_bytes(b"images")
    (folder / "masks.zip").write_bytes(b"masks")
    (folder / "few_shot.yaml").write_text(FEW_SHOT)
    (folder / "batch_composition.yaml").write_text(BATCHES)
    (folder / "sweep.yaml").write_text(BATCHES)
    for name in ("gpu1", "gpu2"):
        (folder / name / "few_shot").mkdir(parents=True)
    (tmp_path / "backup").mkdir()
    (tmp_path / "worker.toml").write_text("")
    monkeypatch.chdir(folder)
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("MESHTRAIN_HOME", str(mesh.home))
    monkeypatch.delenv("MESHTRAIN_MASTER", raising=False)
    return World(mesh, tmp_path)


class World:
    """The mesh, and what stands in the place of what the examples print."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.mesh = mesh
        self._folder = folder
        self._homes = 0

    def arguments(self, example: str) -> tuple[list[str], str | None]:
        """What is run for an example, and what is given to it on stdin."""
        told = example
        for printed, here in self._in_place().items():
            told = re.sub(rf"(?<![\w.]){re.escape(printed)}(?![\w.])", here, told)
        if "mt1.k6Nk..." in told:
            kind = MemberKind.NODE if "--node" in told else MemberKind.PERSON
            told = told.replace("mt1.k6Nk...", self.mesh.token(kind))
        stdin = None
        if "|" in told and told.rstrip().endswith("-"):
            told = told.rpartition("|")[2]
            stdin = self.mesh.token(MemberKind.PERSON) + "\n"
        words = shlex.split(re.split(r"[|>]", told)[0])
        words = words[words.index("meshtrain") + 1 :]
        if words[0] == "join":
            self._homes += 1
            words = ["--home", str(self._folder / f"home-{self._homes}"), *words]
            if "--node" not in words:
                words += ["--name", "alice" if self._homes == 1 else "bob"]
        return words, stdin

    def take_results_home(self) -> None:
        """Folders of results as two masters leave them, each with some of the cells."""
        folder = self.mesh.results / "few_shot"
        self.mesh.wait_file(folder / "report.html")
        for place in ("lab", "cluster"):
            home = Path(place, "results", "few_shot")
            shutil.copytree(folder, home, ignore=shutil.ignore_patterns(".*"))

    def _in_place(self) -> dict[str, str]:
        first, second = self._bases()
        return {
            "7f3a": first,
            "c019": second,
            "/var/lib/meshtrain/master": str(self.mesh.home),
            "/srv/mesh.backup": str(self._folder / "backup" / "mesh.backup"),
            "/etc/meshtrain/worker.toml": str(self._folder / "worker.toml"),
            "./results/few_shot": str(self.mesh.results / "few_shot"),
        }

    def _bases(self) -> tuple[str, str]:
        daemon = self.mesh.daemons["master"]
        if daemon.process.poll() is not None or not hasattr(self, "_known"):
            rows = [] if daemon.process.poll() is not None else self.mesh.rows("bases")
            if len(rows) < 2:
                return getattr(self, "_known", ("7f3a", "c019"))
            self._known = (rows[0]["recipe_hash"][:8], rows[1]["recipe_hash"][:8])
        return self._known


def run(words: list[str], stdin: str | None) -> Any:
    """A command as a person runs it, but for its pauses, which are short."""
    surroundings = Cli(timeout_s=20, sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    return CliRunner().invoke(
        build(), ["--timeout", "20", *words], obj=surroundings, input=stdin, prog_name="meshtrain"
    )


def test_P10_a_shell_is_told_names_by_a_member_and_by_nobody_else(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names_of(["node", "gpu"]) == [(node, "ready") for node in NODES]
    assert names_of(["sweep", ""]) == []
    # Somebody without keys waits for a moment, and is told nothing.
    monkeypatch.setenv("MESHTRAIN_HOME", str(tmp_path / "nobody"))
    assert names_of(["node", "gpu", "--master", world.mesh.address]) == []


@pytest.mark.timeout(180)
def test_every_example_of_the_help_does_what_it_says(world: World) -> None:
    found = list(dict.fromkeys(examples()))
    assert set(CASES) <= set(found), set(CASES) - set(found)
    environment = dict(os.environ)
    wrong: list[str] = []
    for example in sorted(found, key=lambda example: CASES.get(example, Case()).stage):
        case = CASES.get(example, Case())
        if case.stage > STOPPED and world.mesh.daemons["master"].process.poll() is None:
            world.mesh.ask_to_stop("master")
            world.mesh.wait_stopped("master")
        words, stdin = world.arguments(example)
        if case.parsed or words[0] in ("master", "worker", "top"):
            parse(words)
            continue
        began_s = time.monotonic()
        try:
            result = run(words, stdin)
        finally:
            os.environ.clear()
            os.environ.update(environment)
        print(f"{time.monotonic() - began_s:6.2f} s  {result.exit_code}  {example}")
        told = result.stdout + result.stderr
        if result.exit_code not in case.codes or case.says not in told or not told.strip():
            wrong.append(f"$ {example}\nexit code {result.exit_code} {result.exception}\n{told}")
        if "submit" in words:
            world.mesh.wait_jobs(words[1].removesuffix(".yaml"))
        if "revoke" in words:
            # All links are cut a moment after the answer: what is asked then has none.
            time.sleep(CUT_WITHIN_S)
        if example == SECOND_AFTER:
            world.mesh.submit(FEW_SHOT_LONG)
            world.mesh.wait_jobs("few_shot_long")
            world.take_results_home()
    assert not wrong, "\n\n".join(wrong)


def parse(words: list[str]) -> None:
    """Have the command take its arguments, and no more. Fails for what it doesn't know."""
    group: Any = typer.main.get_command(build())
    with group.make_context("meshtrain", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        with command.make_context(name, rest, parent=context):
            pass
