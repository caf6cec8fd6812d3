"""One message on the wire, ours and foreign ones."""
