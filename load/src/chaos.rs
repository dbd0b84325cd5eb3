//! A TCP proxy that makes the network misbehave.
