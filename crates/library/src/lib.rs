//! The deduplicating store.
