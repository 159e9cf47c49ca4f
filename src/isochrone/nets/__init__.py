"""Building blocks without any idea of a world: perceptrons, convolutions, recurrent cells, metrics."""
