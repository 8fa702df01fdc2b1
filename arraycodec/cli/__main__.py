"""`python -m arraycodec.cli`, the command `arraycodec` where no script is on the PATH."""

from arraycodec.cli import main

main()
