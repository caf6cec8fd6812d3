"""The daemon and its sockets."""
