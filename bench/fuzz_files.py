"""Damaged run folders and recordings: does every one end in a sentence, or in the same numbers as before? Prints JSON.

    python bench/fuzz_files.py --cases 600 --seed 0

One damage each time (a cut, a flipped bit, JSON of another shape, a link, a pipe, an array of another type, tensors
that fit their manifest but not the code, ...) to a copy of a small run or recording. Then a command reads it, in a
process of its own. Counted are: tracebacks, hangs, results that differ from the undamaged ones without a word (a
silent fallback is one of these), and files outside the folder that were changed or copied. Exit code 1 unless all
counts are 0. It takes about 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

SMALL = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4 --model.open-loop 2
  --train.batch 4 --train.length 6 --optim.model.warmup 1 --train.log-every 2 --data.num-envs 8 --data.rows 40
  --eval.episodes 4 --eval.length 16 --eval.pairs 0 --eval.horizon 4 --train.steps 6 --train.save-every 2""".split()
SECRET = b"the neighbour's secret"
HANG = 60  # seconds
Damage = Callable[[random.Random, Path, Path], str]
"""(rng, the folder or recording, a folder outside of it) -> what was done."""


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int | None  # None: it had to be killed
    out: str
    err: str
    seconds: float

    @property
    def told(self) -> bool:
        """It refused, or warned."""
        return self.code == 2 or any(line.startswith("warning: ") for line in self.err.splitlines())


def call(words: list[str]) -> Outcome:
    """Run a command of isochrone in a forked process, so that a crash or a hang ends nothing else."""
    from isochrone.cli import run

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = os.fork()
        if child == 0:
            code = 99
            with out.open("w") as stdout, err.open("w") as stderr:
                with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                    try:
                        code = run(words)
                    except BaseException:
                        import traceback

                        traceback.print_exc()
            os._exit(code)
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return Outcome(os.waitstatus_to_exitcode(status), out.read_text(), err.read_text(), _since(began))
            if _since(began) > HANG:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome(None, out.read_text(), err.read_text(), _since(began))
            time.sleep(0.01)


def _since(began: float) -> float:
    return time.monotonic() - began


# --- what is damaged --------------------------------------------------------------------------------------------------


def make_run(folder: Path, *more: str) -> Path:
    """A small run with checkpoints of steps 4 and 6, measured."""
    for words in (["train", "tiny", *SMALL, *more, "--run", str(folder), "--then", ""], ["eval", str(folder)]):
        done = call(words)
        assert done.code == 0, done.err
    return folder


def make_recording(path: Path) -> Path:
    """Four episodes."""
    words = ["--out", str(path), "--data.num-envs", "4", "--data.rows", "25", "--env.episode-length", "24"]
    done = call(["data", "collect", "tiny", *words])
    assert done.code == 0, done.err
    return path


def _files(run: Path, *suffixes: str) -> list[Path]:
    skipped = ("events", "lock", "report")
    every = [f for f in sorted(run.rglob("*")) if f.is_file() and not f.is_symlink()]
    return [f for f in every if not f.name.startswith(skipped) and (not suffixes or f.suffix in suffixes)]


def _pick(rng: random.Random, run: Path, *suffixes: str) -> Path:
    """A file of a run, each folder as likely as the files beside it; or the recording itself."""
    return run if run.is_file() else rng.choice(_files(run, *suffixes))


def cut(rng: random.Random, run: Path, outside: Path) -> str:
    path = _pick(rng, run)
    size = rng.choice([0, rng.randrange(max(path.stat().st_size, 1))])
    os.truncate(path, size)
    return f"{path.name} cut to {size} bytes"


def extend(rng: random.Random, run: Path, outside: Path) -> str:
    path = _pick(rng, run)
    with path.open("ab") as file:
        file.write(rng.choice([b"\0", b"x", b"\n"]) * rng.choice([1, 100, 5000]))
    return f"{path.name} extended"


def flip(rng: random.Random, run: Path, outside: Path) -> str:
    path = _pick(rng, run)
    data = bytearray(path.read_bytes())
    if data:
        at = rng.randrange(min(len(data), rng.choice([200, 4096, len(data)])))
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return f"{path.name}: a flipped bit"


def garbage(rng: random.Random, run: Path, outside: Path) -> str:
    path = _pick(rng, run)
    data = bytearray(path.read_bytes())
    at = rng.randrange(max(len(data), 1))
    data[at : at + 64] = rng.randbytes(len(data[at : at + 64]))
    path.write_bytes(data)
    return f"{path.name}: garbage"


def delete(rng: random.Random, run: Path, outside: Path) -> str:
    path = _pick(rng, run)
    path.unlink()
    return f"{path.name} deleted"


SHAPES: list[Any] = [None, [], {}, 0, -1, 1e300, "", "\x1b[31mred\n", True, [[1]], {"a": None}, "9" * 5000, 2**70]


def other_json(rng: random.Random, run: Path, outside: Path) -> str:
    """Valid JSON of another shape, somewhere in a JSON file."""
    path = _pick(rng, run, ".json", ".jsonl")
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = rng.randrange(len(lines))
    data = json.loads(lines[number])
    place, value = data, rng.choice(SHAPES)
    for _ in range(rng.randrange(4)):
        inner = place[rng.choice(list(place))] if isinstance(place, dict) and place else None
        if not isinstance(inner, dict) or not inner:
            break
        place = inner
    if rng.random() < 0.2 or not isinstance(place, dict) or not place:
        data = value
    elif rng.random() < 0.3:
        del place[rng.choice(list(place))]
    elif rng.random() < 0.2:
        place["unknown"] = value
    else:
        place[rng.choice(list(place))] = value
    lines[number] = json.dumps(data)
    path.write_text("\n".join(lines) + "\n" * (path.suffix == ".jsonl"))
    return f"{path.name}: other JSON, {str(value)[:20]!r}"


def bad_json(rng: random.Random, run: Path, outside: Path) -> str:
    """What is no JSON, or no JSON that anybody needs."""
    path = _pick(rng, run, ".json", ".jsonl")
    text = rng.choice(["[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000, "NaN", '{"step": 1e999}', "{}{}", "\udcff\0"])
    path.write_bytes(text.encode(errors="surrogateescape"))
    return f"{path.name}: {text[:20]!r}"


def link(rng: random.Random, run: Path, outside: Path) -> str:
    """A file or folder replaced by a link to another place."""
    targets = [_pick(rng, run), *((f for f in run.iterdir() if f.is_dir()) if run.is_dir() else [])]
    path = rng.choice(targets)
    other = outside / ("folder" if path.is_dir() else "file")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(rng.choice([other, Path("/dev/zero"), outside / "nothing", path]))
    return f"{path.name} -> {os.readlink(path)}"


def held_elsewhere(rng: random.Random, run: Path, outside: Path) -> str:
    """A file replaced by a link to a good copy of it outside: reading it works, and must not be done."""
    path = _pick(rng, run)
    other = outside / f"good-{path.name}"
    shutil.move(path, other)
    path.symlink_to(other)
    return f"{path.name} -> outside"


def special(rng: random.Random, run: Path, outside: Path) -> str:
    """A pipe, a socket or a folder in place of a file; the lock too."""
    path = rng.choice([_pick(rng, run), run / "lock", run / "lock.holder"]) if run.is_dir() else run
    path.unlink(missing_ok=True)
    kind = rng.choice(["pipe", "folder", "socket"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may have 108 bytes
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    return f"{path.name}: a {kind}"


def other_array(rng: random.Random, run: Path, outside: Path) -> str:
    """An array of another type or shape, or one that pickles."""
    path = _pick(rng, run, ".npy")
    array = np.load(path)
    made = rng.choice([array.astype(np.float64), array[:1], array.T, np.array([{}], dtype=object), array.astype(">f4")])
    np.save(path, made, allow_pickle=True)
    return f"{path.name}: {made.dtype} {made.shape}"


def other_tensors(rng: random.Random, run: Path, outside: Path) -> str:
    """Tensors that fit the manifest but not the code, in the newest checkpoint."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save

    folder = sorted((run / "checkpoints").iterdir())[-1]
    path = folder / rng.choice(["weights.safetensors", "trainer.safetensors"])
    with safe_open(path, "pt") as file:
        meta, parts = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    name, how = rng.choice(sorted(parts)), rng.choice(["missing", "shape", "type", "nan", "inf", "header", "plain"])
    if how == "missing":
        del parts[name]
    elif how == "shape":
        parts[name] = torch.zeros(3, 3)
    elif how == "type":
        parts[name] = parts[name].to(torch.float64)
    elif how in ("nan", "inf") and parts[name].is_floating_point():
        parts[name] = torch.full_like(parts[name], float(how))
    elif how == "plain" and meta:
        meta = {"plain": rng.choice(["[]", "{", '{"stepper": 1}', '{"a/b": 1, "a": 2}', "[" * 10**5])}
    data = rng.randbytes(500) if how == "header" else save(parts, meta)
    path.write_bytes(data)
    about = json.loads((folder / "manifest.json").read_text())
    about["files"][path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(about))
    return f"{path.name}: {name} {how}"


CODE = {
    "env": ["box:Box", "gym:box:X-v0"],
    "model": ["box:Model"],
    "agent": ["box:Agent"],
    "planner": ["box:Plan"],
    "compare_planners": ["box:Plan"],
    "loss": ["box:loss"],
}


def code(rng: random.Random, run: Path, outside: Path) -> str:
    """A config that names a module: it lies where Python finds it, and leaves a mark when it is imported."""
    path = run / "config.json"
    config = json.loads(path.read_text())
    kind = rng.choice(sorted(CODE))
    name = rng.choice(CODE[kind])
    if kind == "compare_planners":
        config[kind] = [name]
    elif kind == "loss":
        config[kind][name] = next(iter(config[kind].values()))
    elif name.startswith("gym:"):
        config["env"] = {"name": "gym", "id": name[4:]}
    else:
        (config["agent"]["planner"] if kind == "planner" else config[kind])["name"] = name
    path.write_text(json.dumps(config))
    return f"config.json: {kind} {name}"


# --- recordings -------------------------------------------------------------------------------------------------------


def hdf5_link(rng: random.Random, path: Path, outside: Path) -> str:
    """Data that lie elsewhere: links, virtual datasets, external storage, references."""
    kind = rng.choice(["external link", "soft link", "loop", "virtual", "external", "references"])
    with h5py.File(path, "r+") as file:
        name = rng.choice(["obs/image", "action", "reward", "terminal", "lengths"])
        data = file[name]
        shape, dtype = data.shape, data.dtype
        if kind == "soft link":
            file["elsewhere"] = data
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(outside / "good.h5"), name)
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/elsewhere")
        elif kind == "loop":
            file[name] = h5py.SoftLink(f"/{name}")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(outside / "good.h5"), name, shape)
            file.create_virtual_dataset(name, layout)
        elif kind == "external":
            size = int(np.prod(shape)) * dtype.itemsize
            file.create_dataset(name, shape, dtype, external=[(str(outside / "raw"), 0, size)])
        else:
            file.create_dataset(name, data=np.array([file.ref] * shape[0], dtype=h5py.ref_dtype))
    return f"{name}: {kind}"


def hdf5_shape(rng: random.Random, path: Path, outside: Path) -> str:
    """Datasets and attributes of other kinds and impossible sizes."""
    with h5py.File(path, "r+") as file:
        name = rng.choice(["obs/image", "action", "reward", "terminal", "lengths"])
        kind = rng.choice(["scalar", "null", "huge", "text", "group", "gone", "attribute", "obs", "negative"])
        shape = file[name].shape
        if kind == "attribute":
            key = rng.choice(["format", "version", "action_kind", "action_names", "action_noop", "action_inverse"])
            file.attrs[key] = rng.choice([file.ref, np.zeros((3, 3)), "text", -1, h5py.Empty("f4"), b"\xff"])
            return f"attribute {key}"
        if kind == "obs":
            del file["obs"]
            file["obs"] = np.zeros(3)
            return "obs: a dataset"
        if kind == "negative":
            file["lengths"][...] = rng.choice([-1, 0, 2**62])
            return "lengths: out of range"
        del file[name]
        if kind == "scalar":
            file[name] = 3.0
        elif kind == "null":
            file[name] = h5py.Empty("f4")
        elif kind == "huge":
            file.create_dataset(name, (10**9, *shape[1:]), "u1", chunks=(2**14, *(1 for _ in shape[1:])))
        elif kind == "text":
            file[name] = ["a", "b"]
        elif kind == "group":
            file.create_group(name)
    return f"{name}: {kind}"


COMMON: list[Damage] = [cut, extend, flip, flip, garbage, delete, link, held_elsewhere, special]
OF_RUNS: list[Damage] = [*COMMON, other_json, other_json, other_json, bad_json, other_array, other_tensors, code]
OF_RECORDINGS: list[Damage] = [cut, flip, flip, garbage, special, hdf5_link, hdf5_link, hdf5_shape, hdf5_shape]


# --- what comes of it -------------------------------------------------------------------------------------------------


def numbers(run: Path) -> Any:
    """The results of a run without its seconds; None when there are none."""
    path = run / "results.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return {k: v for k, v in stored["results"].items() if "seconds" not in k} | {"step": stored["about"].get("step")}


def weights(run: Path) -> str:
    """A hash of the weights of the last step."""
    path = run / "checkpoints" / "00000006" / "weights.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def read_all(path: Path) -> str:
    """A hash of every row of a recording, as it is read."""
    from isochrone.data.source import open_format

    digest = hashlib.sha256()
    for episode in open_format(path).read(path):
        for name, column in sorted(episode.columns().items()):
            digest.update(name.encode() + np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def state_of(folder: Path) -> dict[str, str]:
    """A hash of every file in a folder."""
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


class Bench:
    """Good things to damage, and what they give undamaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = make_run(folder / "run")
        self.collecting = make_run(folder / "collecting", "--data.collect-every", "2", "--data.collect-steps", "6")
        self.recording = make_recording(folder / "good.h5")
        self.wanted = {run: (numbers(run), weights(run)) for run in (self.run, self.collecting)}
        self.rows = read_all(self.recording)

    def case(self, seed: int) -> dict[str, Any]:
        """One damage and one command: what happened. 'fault' is '' or one of the counted kinds."""
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            outside = Path(folder, "outside")
            (outside / "folder").mkdir(parents=True)
            (outside / "file").write_bytes(SECRET)
            (outside / "raw").write_bytes(SECRET * 10**5)
            shutil.copy(self.recording, outside / "good.h5")
            for module in ("box",):
                (outside / f"{module}.py").write_text(f"open({str(outside / 'IMPORTED')!r}, 'w')\n")
            sys.path.insert(0, str(outside))
            try:
                return {
                    "seed": seed,
                    **(self._recording if rng.random() < 0.25 else self._run)(rng, Path(folder), outside),
                }
            finally:
                sys.path.remove(str(outside))

    def _run(self, rng: random.Random, folder: Path, outside: Path) -> dict[str, Any]:
        good = rng.choice([self.run, self.run, self.collecting])
        run = Path(shutil.copytree(good, folder / "run"))
        command = rng.choice(["eval", "eval", "resume", "resume", "report", "doctor"])
        if command == "resume":  # so that there is something to train
            shutil.rmtree(run / "checkpoints" / "00000006")
        if command == "eval":
            (run / "results.json").unlink()
        damage = rng.choice(OF_RUNS)
        what, before = damage(rng, run, outside), state_of(outside)
        words = {"resume": ["train", "--resume", str(run)], "eval": ["eval", str(run), "--no-figures"]}
        done = call(words.get(command, [command, str(run)]))
        fault = _fault(done) or ("touched outside" if state_of(outside) != before else "")
        if not fault and command == "report" and (run / "report.html").is_file():
            fault = "touched outside" if SECRET.decode() in (run / "report.html").read_text() else ""
        if not fault and command == "eval" and done.code == 0 and not done.told:
            fault = "silent" if numbers(run) != self.wanted[good][0] else ""
        if not fault and command == "resume" and done.code == 0 and not done.told:
            fault = "silent" if weights(run) != self.wanted[good][1] else ""
        return _row(command, damage, what, done, fault)

    def _recording(self, rng: random.Random, folder: Path, outside: Path) -> dict[str, Any]:
        path = Path(shutil.copy(self.recording, folder / "my.h5"))
        damage = rng.choice(OF_RECORDINGS)
        what, before = damage(rng, path, outside), state_of(outside)
        done = call(["data", "validate", str(path)])
        fault = _fault(done) or ("touched outside" if state_of(outside) != before else "")
        if not fault and done.code == 0 and read_all(path) != self.rows:
            fault = "silent"
        return _row("validate", damage, what, done, fault)


def _fault(done: Outcome) -> str:
    if done.code is None:
        return "hang"
    if done.code not in (0, 1, 2) or "raceback" in done.err:
        return "traceback"
    sentence = done.err.strip().splitlines()[-1:] or [""]
    if done.code == 2 and (not sentence[0].startswith("isochrone: ") or len(sentence[0]) > 2100):
        return "no sentence"
    return "raw characters" if any(not c.isprintable() and c != "\n" for c in done.err) else ""


def _row(command: str, damage: Damage, what: str, done: Outcome, fault: str) -> dict[str, Any]:
    last = (done.err.strip().splitlines() or [""])[-1]
    return {
        "command": command,
        "damage": damage.__name__,
        "what": what,
        "code": done.code,
        "fault": fault,
        "last": last,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case again, with what it said")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        if args.only is not None:
            print(json.dumps(bench.case(args.only), indent=1))
            return 0
        rows: list[dict[str, Any]] = []
        for number in range(args.cases):
            rows.append(bench.case(args.seed * 100_000 + number))
            if rows[-1]["fault"]:
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)  # at once: the whole takes a while
    faults = [row for row in rows if row["fault"]]
    kinds = ("traceback", "hang", "silent", "touched outside", "no sentence", "raw characters")
    print(
        json.dumps(
            {
                "cases": len(rows),
                "seed": args.seed,
                "commands": dict(Counter(row["command"] for row in rows)),
                "damages": dict(Counter(row["damage"] for row in rows)),
                "refused": sum(row["code"] == 2 for row in rows),
                "counts": {kind: sum(row["fault"] == kind for row in rows) for kind in kinds},
                "faults": faults,
            },
            indent=1,
        )
    )
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
