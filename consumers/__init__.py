"""Everything that touches the world: brokers, MLflow, processes, the command line."""
