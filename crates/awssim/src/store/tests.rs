//! The store against a model.
