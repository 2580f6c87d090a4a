"""``python -m loramix`` is the command."""

from loramix.cli.app import main

raise SystemExit(main())
