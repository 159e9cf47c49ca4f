"""isochrone eval: measure a trained run."""

from __future__ import annotations

import argparse
from contextlib import closing

from isochrone.cli.args import Parser, config_heads, run_folder, show_json
from isochrone.cli.output import show

EXAMPLES = """\
  isochrone eval runs/a
  isochrone eval runs/a --eval.pairs 500 --planner astar --compare-planners cem,gradient
  isochrone eval runs/a --env whitebox:maze        the same model in another environment
  isochrone eval runs/a --json

options of the config that are often used (all of env, eval, agent and compare_planners may be set):
  --eval.pairs N           start and goal pairs to plan between (0: none)
  --eval.episodes N        recorded episodes, --eval.length rows each
  --planner NAME           the agent's planner; --planner.OPTION sets its options, --agent.OPTION those of the agent
  --compare-planners A,B   further planners on the same pairs, with default options
  --env NAME:SHORTHAND     another environment than the one of the training
  --train.threads N        CPU threads
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "eval",
        ["RUN [--json] [--no-figures] [--trust] [--OPTION VALUE ...]"],
        "Measures the newest checkpoint of RUN, against ground truth where the environment has it: predictions, "
        "geometry of z and p, planning. Prints a table; writes RUN/results.json and RUN/figures/STEP/.",
        EXAMPLES,
    )
    out.config_options = config_heads()
    out.add_argument("run", nargs="*", metavar="RUN", help="run folder")
    out.add_argument("--no-figures", action="store_true", help="numbers only")
    out.add_json()
    out.add_trust()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """Always 0: a missed target is a result, not an error."""
    from isochrone.cli.progress import ProgressLine
    from isochrone.workflows.evaluate import evaluate_run
    from isochrone.workflows.loaded_run import load
    from isochrone.workflows.report import summary

    trained = load(run_folder(args), changes, trust=args.trust)
    with closing(ProgressLine()) as progress:
        results = evaluate_run(trained, not args.no_figures, progress)
    if args.json:
        show_json(results)
    else:
        show(summary(results))
    return 0
