"""One file per family of measures: (model, batch, truth, rng) -> {name: number or array}."""
