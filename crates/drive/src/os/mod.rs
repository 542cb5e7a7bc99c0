//! The calls: there is only something to ask on Windows.

#[cfg(not(windows))]
mod other;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
pub use other::{descriptor, length};
#[cfg(windows)]
pub use windows::{descriptor, length};
