//! The journal and the ledger, over books in memory.
