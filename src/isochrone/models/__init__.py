"""World models. A model knows neither its losses nor its use."""
