"""Building blocks that do not depend on a model: MLPs, image networks, recurrent cells, distributions, quasimetrics."""
