"""Files become adapters: every tensor used, left out on request, or refused."""
