"""`python -m gac_core.cli`, the `gac` command where no scripts are installed."""

from gac_core.cli.app import main

main()
