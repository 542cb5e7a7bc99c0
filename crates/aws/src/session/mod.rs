//! A session: credentials for one account and region with a purpose, and the clients that use them. Secrets are
//! never printed; what a session may do is narrowed by a policy to its operation where a role is assumed.

mod account;
mod chain;
mod clients;
mod purpose;

pub use account::Account;
pub use clients::Clients;
pub(crate) use clients::is_this_machine;
pub use purpose::{SessionPurpose, SessionScope};
