"""The MLflow sink: metric points, alarms and requests from the topics into runs."""
