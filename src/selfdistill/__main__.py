"""`python -m selfdistill`."""

from selfdistill.cli import main

main()
