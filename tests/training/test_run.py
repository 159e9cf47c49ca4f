"""The run folder: what is in it, who may write it, metrics after a resume."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from isochrone.core.errors import UserError
from isochrone.core.files import atomic_write
from isochrone.training.checkpoint import Newest
from isochrone.training.run import Run
from isochrone.training.sinks import Jsonl


def test_create_open_and_refuse(tmp_path):
    with Run.create(tmp_path / "a", {"x": 1}) as run:
        digest = run.config_hash
        stored = json.loads((run.path / "versions.json").read_text())
        assert stored["packages"]["torch"] == torch.__version__
        assert stored["threads"] == 1
        assert stored["code"]
    with Run.open(tmp_path / "a") as run:
        assert run.config == {"x": 1}
        assert run.config_hash == digest
        assert run.newest() == Newest(None, ())
        run.note_resumed(7)
        assert json.loads((run.path / "versions.json").read_text())["resumed"][0]["step"] == 7
        with pytest.raises(UserError, match="no complete checkpoint yet"):
            run.trained()
    with pytest.raises(UserError, match="already contains a run: continue it with --resume"):
        Run.create(tmp_path / "a", {})
    with pytest.raises(UserError, match="contains no run"):
        Run.open(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        Run.create(tmp_path / "file", {})
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged: "):
        Run.open(tmp_path / "a")


def test_a_run_in_use_by_another_process_is_refused(tmp_path):
    with Run.create(tmp_path / "a", {}):
        code = (
            "import sys; from isochrone.core.errors import UserError; from isochrone.training.run import _acquire\n"
            "from pathlib import Path\n"
            "try: _acquire(Path(sys.argv[1]))\n"
            "except UserError as error: sys.exit(str(error))"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(tmp_path / "a")]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 1
        assert f"is in use by process {os.getpid()} on" in done.stderr
        with pytest.raises(UserError, match="in use"):
            Run.open(tmp_path / "a")
        Run.open(tmp_path / "a", write=False).close()
    Run.open(tmp_path / "a").close()


def test_metrics_are_cut_at_the_checkpoint(tmp_path):
    with Run.create(tmp_path, {}) as run:
        sink = Jsonl(Jsonl.Config(), run)
        for step in (10, 20, 30):
            sink.write(step, {"loss": torch.tensor(0.5), "map": torch.zeros(2), "bad": float("nan"), "word": "x"})
        sink.close()
        sink.close()
        with run.metrics.open("a") as file:
            file.write('{"step": 40, "lo')  # killed in the middle
        assert [row["step"] for row in run.rows()] == [10, 20, 30]
        run.forget_after(20)
        assert run.rows()[-1] == {"step": 20, "loss": 0.5, "map": [0.0, 0.0], "bad": None, "word": "x"}
        assert run.metrics.read_bytes().endswith(b"}\n")
        assert len(run.rows()) == 2
        sink.write(25, {"loss": 1})
        assert [row["step"] for row in run.rows()] == [10, 20, 25]
        run.metrics.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
        with pytest.raises(UserError, match="line 2, is damaged: "):
            run.rows()


def test_results_and_figures(tmp_path):
    with Run.create(tmp_path, {}) as run:
        assert run.results() == {}
        results = {"about": {"step": 3}, "results": {"reach.mae": {"value": 0.9, "low": None}}}
        (run.path / "results.json").write_text(json.dumps(results))
        assert run.results() == {"about": {"step": 3}, "results": {"reach.mae": {"value": 0.9}}}
        assert run.figures(12).is_dir()
        assert run.figures(12) == tmp_path / "figures" / "00000012"


def test_atomic_write_on_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    atomic_write(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full.*the file is as it was before"):
            atomic_write(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]
