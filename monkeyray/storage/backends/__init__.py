"""One class for each kind of store, behind the protocol in `protocol.py`."""
