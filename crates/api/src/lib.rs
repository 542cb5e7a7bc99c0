//! The HTTP interface: its types and a client.
