"""Run the command line of the client: `python -m client --help`."""

import sys

from client.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
