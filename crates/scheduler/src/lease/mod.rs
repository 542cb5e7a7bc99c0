//! Leases: the gRPC service that agents and MediaAgents call ([`service`]), which processes are alive ([`nodes`]), and
//! the watch that notices when a lease runs out ([`watch`]).

pub mod nodes;
mod read;
pub mod service;
pub mod watch;

pub use nodes::Nodes;
pub use service::LeaseService;
pub use watch::LeaseWatch;
