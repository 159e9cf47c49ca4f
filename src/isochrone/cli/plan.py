"""isochrone plan: plan from one place to another, and make a GIF of it."""

from __future__ import annotations

import argparse
import logging
import time

from isochrone.cli.args import Parser, config_heads, output_file, run_folder, show_json
from isochrone.cli.output import show
from isochrone.core.errors import printable

log = logging.getLogger(__name__)
EXAMPLES = """\
  isochrone plan runs/a
  isochrone plan runs/a --start 2,3 --goal 12,9
  isochrone plan runs/a --start 2,3 --goal 12,9 --planner cem --planner.candidates 512

options of the config that are often used:
  --planner NAME           see `isochrone list planner`; --planner.OPTION sets its options
  --agent.replan-every N   actions executed of each plan
  --env NAME:SHORTHAND     another environment than the one of the training
"""


def parser() -> Parser:
    """The arguments."""
    out = Parser(
        "plan",
        ["RUN [--start X,Y] [--goal X,Y] [--out FILE.gif] [--json] [--trust] [--OPTION VALUE ...]"],
        "Plans with the model of RUN from one cell of the white box to another, executes the plan in the environment, "
        "and writes a GIF: the environment on the left, the imagined plan on the right. Cells are column,row, counted "
        "from the top left of the 16 x 16 frame. The default of each end is the cell farthest from the other one.",
        EXAMPLES,
    )
    out.config_options = config_heads()
    out.add_argument("run", nargs="*", metavar="RUN", help="run folder")
    out.add_argument("--start", metavar="X,Y", help="cell to start from")
    out.add_argument("--goal", metavar="X,Y", help="cell to reach")
    out.add_argument("--out", metavar="FILE.gif", help="default: RUN/plan.gif")
    out.add_json()
    out.add_trust()
    return out


def run(args: argparse.Namespace, changes: dict[str, str]) -> int:
    """0 whether or not the goal was reached: that is a result."""
    from isochrone.workflows.loaded_run import load
    from isochrone.workflows.plan import cell_of, execute_plan, write_gif

    path = run_folder(args)
    start = None if args.start is None else cell_of(args.start, "--start")
    goal = None if args.goal is None else cell_of(args.goal, "--goal")
    out = None if args.out is None else output_file(args.out, "--out")
    trained = load(path, changes, trust=args.trust)
    out = out or output_file(str(path / "plan.gif"), "--out")
    episode = execute_plan(trained, start, goal, time.perf_counter)
    gif = write_gif(out, episode)
    if args.json:
        show_json({**episode.numbers(), "gif": str(gif)})
        return 0
    ends = "{},{} to {},{}".format(*episode.start, *episode.goal)
    if episode.reached:
        result = f"reached in {episode.steps} steps; the fewest possible are {episode.fewest}"
    else:
        result = f"not reached in {episode.steps} steps; {episode.fewest} are enough"
    show(printable(f"{episode.planner} from {ends}: {result}"))
    log.info("GIF: %s", gif)
    return 0
