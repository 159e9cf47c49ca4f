"""Command lines at random: every one ends with a code and, unless that is 0, with one sentence.

Seeded. Commands, options of every recipe and component, and paths are drawn with values that are right, odd or absurd,
and run in this process on a model of a few weights. A case that runs longer than SECONDS is interrupted as by Ctrl-C
and must end with 130. Counted are: tracebacks on the terminal; hangs; files made outside of the folder that a case may
write to; results without a sentence, or with several; warnings. Crashes (one sentence, but about an error that nobody
foresaw) are listed too.

    python bench/fuzz_commands.py --cases 600 --seed 1 > bench/results/fuzz_commands.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isochrone.cli import COMMANDS, run
from isochrone.core import registry
from isochrone.core.config import component_config, option_paths
from isochrone.workflows import evaluate, plan, report, train  # noqa: F401  imported before a case is interrupted

SECONDS, GRACE = 8, 30
"""Seconds after which a case is interrupted, and until it then must have ended."""
MEMORY = 8 * 2**30
"""Bytes of address space that this process may take."""
SMALL = """--model.hidden 16 --model.h 8 --model.z 8 --model.p 8 --model.fourier 8 --model.depth 4 --model.open-loop 2
  --train.batch 4 --train.length 6 --optim.model.warmup 0 --train.steps 1 --data.num-envs 8 --data.rows 40
  --eval.episodes 4 --eval.length 16 --eval.pairs 4 --eval.horizon 4 --planner.expansions 8""".split()
NUMBERS = """0 1 2 -1 3.5 1e3 1e9 1e400 -1e400 inf -inf nan NaN 0x10 ٣ ² 1_000 65536 65537 2147483648
  9223372036854775807 9223372036854775808 18446744073709551615 18446744073709551616 1e-300 1e300 0.1 true false none
  null ,, 1,2 1;2""".split()
NUMBERS += ["", " ", "1 2", "9" * 400, "--", "-", "[1]", "{}", "NUL\0", "\x1b[31mred", "a\nb", "\ud800", "…"]
RIGHT = "0 1 2 3 4 8 16 0.25 0.5 1.5 true false none".split()
NAMES = """tiny zhp planet_small dreamer cem astar shooting whitebox whitebox:cabin whitebox:nowhere gym gym:CartPole-v1
  gym:Nothing-v0 linear mpc adam jepa os:getcwd json.decoder:JSONDecoder os.path:join : a: :b a:b:c sys:exit
  ../x x/y . .. __init__ _worker_process Tiny TINY tiny.x auto cuda eval report plan eval,eval eval,report""".split()


TRAIN = """train.batch train.length train.seed train.threads train.log_every train.eval_every train.save_every
  train.keep train.precision data.rows data.capacity data.hold_steps data.collect_every data.collect_steps
  data.train_ratio env env.map_file env.actions env.episode_length env.noise model.z model.h model.p
  model.hidden model.depth model.fourier model.open_loop model.pose loss.jepa loss.vicreg loss.jepa.start
  loss.reach_p.settings.pairs optim.model.lr optim.model.clip optim.model.eps optim.model.lr_scale
  agent.planner agent.replan_every agent.planner.horizon agent.planner.width eval.length eval.horizon
  eval.budget eval.seed eval.episodes compare_planners then""".split()
"""Options that the small model of these cases has."""


class Hang(BaseException):
    """A case that does not end when it is interrupted."""


@dataclass
class Finding:
    """What was wrong with one case."""

    words: list[str]
    what: str
    text: str = ""


@dataclass
class Place:
    """Folders and files that the cases name; cases may only write below `work`."""

    root: Path
    work: Path
    run: Path
    recording: Path
    paths: list[str] = field(default_factory=list)


def make_place(root: Path) -> Place:
    """A trained run, a recording, and paths of every unpleasant kind."""
    work, home = root / "work", root / "home"
    for folder in (work, home, root / "tmp"):
        folder.mkdir()
    os.environ |= {"HOME": str(home), "MPLCONFIGDIR": str(root / "tmp")}
    tempfile.tempdir = str(root / "tmp")
    os.chdir(work)
    place = Place(root, work, work / "trained", work / "recording.h5")
    with quiet():
        assert run(["train", "tiny", *SMALL, "--run", str(place.run), "--then", ""]) == 0
        words = ["--data.num-envs", "2", "--data.rows", "20", "--env.episode-length", "19"]
        assert run(["data", "collect", "tiny", "--out", str(place.recording), *words]) == 0
    (work / "file").write_text("text\n")
    (work / "map.txt").write_text("...\n.#.\n...\n")
    (work / "folder").mkdir()
    (work / "folder.h5").mkdir()
    (work / "broken.h5").write_bytes(place.recording.read_bytes()[:2000])
    os.mkfifo(work / "fifo")
    os.mkfifo(work / "fifo.h5")
    (work / "dangling").symlink_to("nowhere")
    (work / "loop").symlink_to("loop")
    (work / "lr=0.1").symlink_to("trained")
    place.paths = [
        *"file map.txt folder folder.h5 broken.h5 fifo fifo.h5 dangling loop lr=0.1 trained recording.h5".split(),
        *"none none.h5 none/deep/x file/x file/x.h5 /dev/null /dev/zero /dev/full /dev/zero/x . ./".split(),
        *("~", "~/x", "~nobody-at-all/x", "a=b", "data=1.h5", "train.steps=2", "x" * 300, "y" * 5000, "d/" * 3000),
        *("", " ", "with space", "new\nline", "esc\x1b[2J", "ümlaut", "\ud800", "nul\0", "-dash", "--", "--x", "x.gif"),
    ]
    return place


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Standard output and standard error as text."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


# --- drawing command lines --------------------------------------------------------------------------------------------


def options() -> list[str]:
    """Every option of every recipe, planner, agent and environment."""
    found: set[str] = set()
    for recipe in registry.names("recipe"):
        found |= set(option_paths(registry.get("recipe", recipe)()))
    for kind, path in (("planner", "agent.planner"), ("env", "env"), ("agent", "agent"), ("model", "model")):
        for name in registry.names(kind):
            with contextlib.suppress(Exception):
                found |= {f"{path}.{option}" for option in option_paths(component_config(kind, name))}
    return sorted(found) + [
        "env",
        "model",
        "agent",
        "planner",
        "loss.jepa",
        "data",
        "train",
        "loss",
        "optim",
        "nothing",
    ]


def case(rng: random.Random, place: Place, known: list[str]) -> list[str]:
    """One command line."""
    command = rng.choice(
        [*COMMANDS, "train", "train", "train", "train", "eval", "eval", "plan", "data", "data", "tarin"]
    )
    if command == "train":
        words = _train(rng, place)
    elif command in ("eval", "plan", "report"):
        words = [rng.choice([str(place.run), "trained", rng.choice(place.paths)])]
        quick = ["--eval.pairs", "2", "--no-figures", "--compare-planners", ""]
        words += quick if command == "eval" and rng.random() < 0.9 else []
        words += (
            []
            if command != "plan" and rng.random() < 0.8
            else rng.choice([[], [], ["--out", rng.choice(place.paths)], ["--start", "4,5"], ["--goal", _value(rng)]])
        )
    elif command == "data":
        words = [rng.choice(["collect", "validate", "info", "convert", "x"])]
        words += [rng.choice(["tiny", rng.choice(NAMES), rng.choice(place.paths), str(place.recording)])]
        words += ["--out", rng.choice(place.paths)] if rng.random() < 0.4 else []
        words += [*SMALL[-26:-22]] if words[0] == "collect" else []
    elif command == "routes":
        words = rng.choice([["tiny", "--json"], [rng.choice(NAMES)], ["--write", rng.choice(place.paths)]])
    elif command == "doctor":
        words = [rng.choice(["--jsn", "x", "--", "--train.steps"])]  # the check itself is the same every time
    else:
        words = rng.choice([[], [rng.choice(NAMES)], ["bash"], ["recipe", "--json"], ["map", "x"], ["--", "map"]])
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        words += _option(rng, place, known)
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), rng.choice(["--", "--help", "-h", "-x", "--json", "", "extra"]))
    return [command, *words]


def _train(rng: random.Random, place: Place) -> list[str]:
    if rng.random() < 0.15:
        return ["--resume", rng.choice([str(place.run), *place.paths])]
    recipe = rng.choice(["tiny", "tiny", "tiny", "tiny", rng.choice(NAMES)])
    words = [recipe, *(SMALL if recipe == "tiny" else ["--train.steps", "1"])]
    if rng.random() < 0.8:
        words += [
            "--run",
            rng.choice([f"run-{rng.randrange(10**9)}", f"run-{rng.randrange(10**9)}", rng.choice(place.paths)]),
        ]
    if rng.random() < 0.2:
        words += ["--data", rng.choice(["recording.h5", rng.choice(place.paths)])]
    if rng.random() < 0.8:
        words += ["--then", ""]
    else:
        words += ["--then", rng.choice(["", "eval", "report", "eval,eval", "plan,report", "train", _value(rng)])]
    return words


def _option(rng: random.Random, place: Place, known: list[str]) -> list[str]:
    if rng.random() < 0.4:
        return [f"--{rng.choice(TRAIN)}".replace("_", "-"), rng.choice(RIGHT)]
    name = rng.choice(rng.choice([known, TRAIN])).replace("_", "-")
    if rng.random() < 0.1:
        at = rng.randrange(len(name))
        name = rng.choice([name[:at] + name[at + 1 :], name[:at] + "x" + name[at:], name.upper(), f"{name}.{name}"])
    path = "file" in name or name == "data"
    value = rng.choice(place.paths) if path or rng.random() < 0.05 else _value(rng)
    return rng.choice(
        [[f"--{name}", value], [f"--{name}", value], [f"--{name}={value}"], [f"{name}={value}"], [f"--{name}"]]
    )


def _value(rng: random.Random) -> str:
    return rng.choice([rng.choice(RIGHT), rng.choice(NUMBERS), rng.choice(NAMES)])


# --- running and judging ----------------------------------------------------------------------------------------------


def attempt(words: list[str], place: Place) -> tuple[list[Finding], dict[str, Any]]:
    """Run one command line; what is wrong with it, and its code, seconds and last line."""

    def alarm(number: int, frame: object) -> None:
        signal.signal(signal.SIGALRM, too_late)
        signal.alarm(GRACE)
        raise KeyboardInterrupt

    def too_late(number: int, frame: object) -> None:
        raise Hang

    before, began, faults = _files(place), time.monotonic(), []
    code: int | None = None
    signal.signal(signal.SIGALRM, alarm)
    with quiet() as (out, err), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        signal.alarm(SECONDS)
        try:
            code = run(words)
        except Hang:
            faults.append(Finding(words, "hang"))
        except BaseException as error:
            faults.append(Finding(words, "escaped exception", repr(error)))
        finally:
            signal.alarm(0)
    facts = {"code": code, "seconds": time.monotonic() - began, "last": (err.getvalue().splitlines() or [""])[-1]}
    faults += _judge(words, code, out.getvalue(), err.getvalue())
    faults += [Finding(words, "warning", str(w.message)) for w in warned if "isochrone" in str(w.filename)]
    at_home = any("~" in word for word in words)
    made = [name for name in sorted(_files(place) - before) if not (at_home and "/home/" in name)]
    faults += [Finding(words, "file outside", name) for name in made]
    return faults, facts


def _judge(words: list[str], code: int | None, out: str, err: str) -> list[Finding]:
    found = []
    if "Traceback (most recent call last)" in out + err:
        found.append(Finding(words, "traceback", err[-2000:]))
    sentences = [line for line in err.splitlines() if line.startswith("isochrone: ")]
    if code and words[1:2] != ["routes"] and len(sentences) != 1 and not (code == 2 and not words):
        found.append(Finding(words, "no sentence" if not sentences else "several sentences", err[-500:]))
    if any(len(line) > 2500 for line in sentences):
        found.append(Finding(words, "long sentence", err[-100:]))
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", err):
        found.append(Finding(words, "control character", repr(err[-500:])))
    return found


def _files(place: Place) -> set[str]:
    """What lies outside of the folder that cases may write to."""
    outside = [place.root / "home", place.root / "tmp", *(Path(p) for p in ("/", "/dev")), Path(__file__).parent]
    names = {str(p) for folder in outside for p in folder.iterdir()} | {str(p) for p in place.root.iterdir()}
    return {name for name in names if "isochrone-traceback-" not in name}


def campaign(cases: int, seed: int, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Run many command lines; counts, and every finding."""
    rng, here = random.Random(seed), Path.cwd()
    root = Path(tempfile.mkdtemp(prefix="isochrone-fuzz-"))
    faults: list[Finding] = []
    crashes: list[dict[str, Any]] = []
    codes: dict[str, int] = {}
    slowest = 0.0
    kept = os.environ.get("HOME"), tempfile.tempdir
    try:
        place, known = make_place(root), options()
        for number in range(cases):
            words = case(rng, place, known)
            found, facts = attempt(words, place)
            faults += found
            codes[str(facts["code"])] = codes.get(str(facts["code"]), 0) + 1
            slowest = max(slowest, facts["seconds"])
            if facts["code"] == 1 and "the traceback is in" in facts["last"]:
                crashes.append({"words": words, "sentence": facts["last"].partition("; the traceback")[0]})
            what = [finding.what for finding in found]
            tell(f"{number} {facts['code']} {facts['seconds']:.1f} {words} {what} {facts['last'][:150]}")
            os.chdir(place.work)
    finally:
        os.chdir(here)
        os.environ["HOME"], tempfile.tempdir = kept[0] or "", kept[1]
        shutil.rmtree(root, ignore_errors=True)
    kinds = ("traceback", "hang", "escaped exception", "file outside", "no sentence", "several sentences", "warning")
    kinds += ("long sentence", "control character")
    return {
        "cases": cases,
        "seed": seed,
        "codes": dict(sorted(codes.items())),
        "slowest_seconds": round(slowest, 1),
        "faults": {kind: sum(f.what == kind for f in faults) for kind in kinds},
        "crashes": len(crashes),
        "findings": [vars(f) for f in faults],
        "crash_sentences": crashes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="one line per case on standard error")
    args = parser.parse_args()
    with contextlib.suppress(ImportError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    stderr = sys.stderr
    tell = (
        (lambda text: print(text.encode("ascii", "backslashreplace").decode(), file=stderr, flush=True))
        if args.verbose
        else (lambda text: None)
    )
    print(json.dumps(campaign(args.cases, args.seed, tell), indent=1))


if __name__ == "__main__":
    main()
