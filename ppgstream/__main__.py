"""`python -m ppgstream`."""

from ppgstream.cli.app import main

main()
