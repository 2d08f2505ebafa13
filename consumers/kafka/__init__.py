"""The broker contract on Apache Kafka."""
