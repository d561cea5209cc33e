"""Base codecs: the inputs of the enhancers, and baselines for comparison."""
