//! The words of Snapferry as types.
