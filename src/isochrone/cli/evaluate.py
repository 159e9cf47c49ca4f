"""isochrone eval: measure a trained run."""

from __future__ import annotations

from isochrone.cli.words import asks_help, say, show_json, split

USAGE = """isochrone eval RUN [--json] [--no-figures] [--OPTION VALUE ...]

Measures the newest checkpoint of RUN against the truth: does it predict, is z perceptual, is p reachability, can one
plan here. Prints a table, writes RUN/results.json and RUN/figures/STEP/. Planners stand beside their floors.

  isochrone eval runs/a
  isochrone eval runs/a --eval.pairs 500 --planner astar --compare-planners cem,gradient
  isochrone eval runs/a --env whitebox:maze        the same model in another world
  isochrone eval runs/a --json

  --eval.pairs N       start and goal pairs to plan between (0: none)
  --eval.episodes N    recorded episodes, --eval.length rows each
  --planner NAME       the agent's planner; --planner.OPTION sets it, --agent.OPTION the other options of the agent
  --compare-planners A,B  further planners on the same pairs, in their default settings
  --env NAME:MAIN      another world than the one it was trained in
  --train.threads N    CPU threads
  --no-figures         numbers only
  --json               print results.json instead of the table
"""


def command(words: list[str]) -> int:
    """Always 0: numbers that miss their bar are shown, not punished."""
    if asks_help(words):
        print(USAGE, end="")
        return 0
    asked = split(words, ("json", "no-figures"))
    from isochrone.workflows.evaluate import evaluate_run
    from isochrone.workflows.loaded_run import load
    from isochrone.workflows.report import summary

    trained = load(asked.one("run folder", "runs/tiny-1"), asked.options)
    results = evaluate_run(trained, say, figures="no-figures" not in asked.switches)
    if "json" in asked.switches:
        show_json(results)
    else:
        print(summary(results))
    return 0
