//! SharedCache over Redis.
