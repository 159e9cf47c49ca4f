"""Names everyone shares: types, protocols, registry, config, gradient routes."""
