"""Runs the command line as `python -P -m streamgauge.consumers.cli`."""

from streamgauge.consumers.cli.main import main

main()
