"""isochrone plan: from one place to another, with a film."""

from __future__ import annotations

import time
from pathlib import Path

from isochrone.cli.words import asks_help, say, show_json, split

USAGE = """isochrone plan RUN [--start X,Y] [--goal X,Y] [--planner NAME] [--out FILE.gif] [--json]

Plans in the model of RUN from one cell of the white box to another, plays the plan in the true world, and writes a
GIF: the world on the left, what the model imagines on the right. Cells are column,row, counted from the top left of
the 16 x 16 frame. An end that is not given is the farthest from the other one.

  isochrone plan runs/a
  isochrone plan runs/a --start 2,3 --goal 12,9
  isochrone plan runs/a --start 2,3 --goal 12,9 --planner cem --planner.candidates 512

  --planner NAME       {planners}; --planner.OPTION sets it
  --agent.replan-every N  actions taken from one plan
  --env NAME:MAIN      another world than the one it was trained in
  --out FILE.gif       default: RUN/plan.gif
"""


def command(words: list[str]) -> int:
    """0 whether or not the goal was reached: that is a measurement."""
    if asks_help(words):
        from isochrone.core import registry

        print(USAGE.format(planners=", ".join(registry.names("planner"))), end="")
        return 0
    asked = split(words)
    from isochrone.workflows.loaded_run import load
    from isochrone.workflows.plan import cell_of, travel, write_gif

    path = Path(asked.one("run folder", "runs/tiny-1"))
    ends = {name: cell_of(asked.options[name], f"--{name}") for name in ("start", "goal") if name in asked.options}
    trained = load(path, asked.without("start", "goal", "out"))
    trip = travel(trained, ends.get("start"), ends.get("goal"), time.perf_counter)
    film = write_gif(Path(asked.options.get("out", path / "plan.gif")), trip)
    if "json" in asked.switches:
        show_json({**trip.numbers(), "gif": str(film)})
        return 0
    way = "{},{} to {},{}".format(*trip.start, *trip.goal)
    if trip.reached:
        print(f"{trip.planner} from {way}: there in {trip.steps} steps; the fewest possible are {trip.fewest}")
    else:
        print(f"{trip.planner} from {way}: not reached within {trip.steps} steps; {trip.fewest} would do")
    say(f"film: {film}")
    return 0
